"""The paper's ablations (Tables 3–7) as lists of entries over one pass of the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from ...kernels import Pooling
from ...runtime.bundle.contract import MODES, Manifest
from .evaluate import DEFAULT_PROTOCOLS, Entry
from .methods import METHODS, Setting
from .methods.diffseg import THRESHOLDS as DIFFSEG_THRESHOLDS
from .methods.diffseg import TIMESTEP as DIFFSEG_TIMESTEP

TIMESTEPS: Final = (0, 9, 50, 99, 200, 300, 400, 499, 700)
"""Indices into ᾱ; the paper's t = 1, 10, 100 and 500 are 0, 9, 99 and 499."""

POOLINGS: Final[tuple[Pooling, ...]] = ("exp", "softmax")
"""The official code's, and that over tokens, which suits small models better."""

POWER: Final = 8.0
"""Of the affinity, beside the paper's 1."""

WITH_NOISE: Final = 200
"""A timestep for unnamed segments beside the paper's."""

SMALL_THRESHOLD: Final = 0.3
"""Of DiffSeg beside the published ones: maps of few pixels are less far apart."""


@dataclass(frozen=True)
class Table:
    """One table of the sweep.

    Attributes:
        id: as `--tables` names it.
        title: above the table.
        rows: (label, entry).
    """

    id: str
    title: str
    rows: tuple[tuple[str, Entry], ...]


def tables(
    manifest: Manifest,
    timestep: int,
    train: int,
    timesteps: Sequence[int] = TIMESTEPS,
    protocol: str = DEFAULT_PROTOCOLS["named"],
    segments_protocol: str = DEFAULT_PROTOCOLS["segments"],
) -> list[Table]:
    """Every table, for the strides a bundle has.

    Args:
        manifest: the bundle's.
        timestep: of the tables that do not vary it.
        train: pictures of the training split.
        timesteps: of Table 4.
        protocol: of named methods.
        segments_protocol: of unnamed ones.
    """
    base = Setting("maskdiffusion", timestep)

    def entry(setting: Setting) -> Entry:
        named = METHODS[setting.method].kind == "named"
        return Entry(setting, protocol if named else segments_protocol)

    def table(name: str, title: str, rows: Sequence[tuple[str, Setting]]) -> Table:
        return Table(name, title, tuple((label, entry(setting)) for label, setting in rows))

    unnamed = replace(base, method="unsupervised", timestep=0)
    fitted = replace(base, method="prototypes-gt", train=train)
    features = [output.stride for output in manifest.features]
    attention = list(dict.fromkeys(output.stride for output in manifest.attention))
    return [
        table(
            "features",
            "Features and attention against attention alone",
            [
                (f"{method}, {pooling}{', visible names' * dynamic}",
                 replace(base, method=method, pooling=pooling, dynamic=dynamic))
                for dynamic in (False, True)
                for pooling in POOLINGS
                for method in ("attention", "maskdiffusion")
            ],
        ),
        table(
            "modes",
            "The equations as written against the released code's",
            [
                (f"{mode}, {pooling}", replace(base, mode=mode, pooling=pooling))
                for mode in MODES
                for pooling in POOLINGS
            ],
        ),
        table(
            "3",
            "Unnamed segments (Table 3)",
            [
                ("spectral", unnamed),
                ("spectral, k found", replace(unnamed, segments="auto")),
                ("k-means on f", replace(unnamed, method="kmeans")),
                (f"spectral, power {POWER:g}", replace(unnamed, sharpness=POWER)),
                (f"spectral, power {POWER:g}, timestep {WITH_NOISE}",
                 replace(unnamed, sharpness=POWER, timestep=WITH_NOISE)),
                (f"k-means on f, timestep {WITH_NOISE}",
                 replace(unnamed, method="kmeans", timestep=WITH_NOISE)),
                *(
                    (f"DiffSeg, threshold {threshold:g}",
                     replace(unnamed, method="diffseg", timestep=DIFFSEG_TIMESTEP,
                             kl_threshold=threshold))
                    for threshold in (SMALL_THRESHOLD, *DIFFSEG_THRESHOLDS)
                    if manifest.self_attention
                ),
            ],
        ),
        table(
            "4",
            "Timestep (Table 4)",
            [
                (f"{pooling}, timestep {t}", replace(base, pooling=pooling, timestep=t))
                for pooling in POOLINGS
                for t in timesteps
            ],
        ),
        table(
            "5",
            "Attention strides (Table 5)",
            [
                (f"{pooling}, {'+'.join(map(str, chosen))}",
                 replace(base, pooling=pooling, attention_strides=chosen))
                for pooling in POOLINGS
                for chosen in _subsets(attention)
            ],
        ),
        table(
            "6",
            "Feature strides (Table 6)",
            [
                (f"{pooling}, {'+'.join(map(str, chosen))}",
                 replace(base, pooling=pooling, feature_strides=chosen))
                for pooling in POOLINGS
                for chosen in _subsets(features)
            ]
            + [
                (f"k-means, {'+'.join(map(str, chosen))}",
                 replace(unnamed, method="kmeans", feature_strides=chosen))
                for chosen in _subsets(features)
            ],
        ),
        table(
            "7",
            "Prototypes and prompts (Table 7)",
            [
                *(
                    (f"{pooling}, {'visible names' if dynamic else 'every name'}",
                     replace(base, pooling=pooling, dynamic=dynamic))
                    for pooling in POOLINGS
                    for dynamic in (False, True)
                ),
                ("prototypes from ground truth", fitted),
                ("prototypes from ground truth, visible names", replace(fitted, dynamic=True)),
            ],
        ),
    ]  # fmt: skip


def _subsets(strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Every choice of some strides, the finest first."""
    ordered = sorted(strides)
    return [
        chosen for count in range(1, len(ordered) + 1) for chosen in combinations(ordered, count)
    ]
