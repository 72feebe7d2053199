"""The paper's ablations (Tables 3–7) as lists of entries over one pass of the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Final, Self

from ...kernels import Pooling
from ...runtime.bundle.contract import Manifest
from .settings import DEFAULT_PROTOCOLS, HEADS, Entry, PromptClasses, Setting

TIMESTEPS: Final = (0, 9, 50, 99, 200, 300, 400, 499, 700)
"""Indices into ᾱ; the paper's t = 1, 10, 100 and 500 are 0, 9, 99 and 499."""

POOLINGS: Final[tuple[Pooling, ...]] = ("exp", "softmax")
"""The official code's, and that over tokens, which suits small models better."""

PROMPTS: Final[tuple[PromptClasses, ...]] = ("all", "present")
"""Without and with the paper's dynamic prompts (Table 7)."""

POWER: Final = 8.0
"""Of the affinity, beside the paper's 1."""

WITH_NOISE: Final = 200
"""A timestep for unnamed segments beside the paper's."""

THRESHOLDS: Final = (0.3, 0.9, 1.1)
"""Of DiffSeg: the published ones for Cityscapes and COCO-Stuff (§4), and a smaller one beside them,
since maps of few pixels are less far apart."""


@dataclass(frozen=True)
class SweepTable:
    """One table of the sweep, or of a run.

    Attributes:
        id: as `--tables` names it; "" for a run's.
        title: above the table.
        rows: (label, entry).
    """

    id: str
    title: str
    rows: tuple[tuple[str, Entry], ...]

    @classmethod
    def of(cls, title: str, entries: Sequence[Entry]) -> Self:
        """A run's, each row named by what it is."""
        return cls("", title, tuple((entry.setting.words, entry) for entry in entries))


def tables(
    manifest: Manifest,
    timestep: int,
    train: int,
    timesteps: Sequence[int] = TIMESTEPS,
    protocol: str = DEFAULT_PROTOCOLS["named"],
    segments_protocol: str = DEFAULT_PROTOCOLS["unnamed"],
) -> list[SweepTable]:
    """Every table, for the strides a bundle has.

    Args:
        manifest: the bundle's.
        timestep: of the tables that do not vary it.
        train: pictures of the training split.
        timesteps: of Table 4.
        protocol: of named heads.
        segments_protocol: of unnamed ones.
    """
    named = partial(Setting.of, "maskdiffusion", timestep=timestep)
    spectral, kmeans = partial(Setting.of, "spectral"), partial(Setting.of, "kmeans")
    fitted = partial(Setting.of, "prototypes-gt", timestep=timestep, train=train)
    powered = partial(spectral, affinity="cells", affinity_power=POWER)

    def table(name: str, title: str, rows: Sequence[tuple[str, Setting]]) -> SweepTable:
        protocols = {"named": protocol, "unnamed": segments_protocol}
        return SweepTable(
            name, title, tuple((text, Entry(row, protocols[row.kind])) for text, row in rows)
        )

    features = [output.stride for output in manifest.features]
    attention = list(dict.fromkeys(output.stride for output in manifest.attention))
    return [
        table(
            "features",
            "Features and attention against attention alone",
            [
                (f"{head}, {pooling}{', visible names' * (names == 'present')}",
                 Setting.of(head, timestep=timestep, pooling=pooling, prompt_classes=names))
                for names in PROMPTS
                for pooling in POOLINGS
                for head in ("attention", "maskdiffusion")
            ],
        ),
        table(
            "modes",
            "The equations as written against the released code's",
            [
                (f"{mode}, {pooling}", named(mode=mode, pooling=pooling))
                for mode in ("paper", "released")
                for pooling in POOLINGS
            ],
        ),
        table(
            "3",
            "Unnamed segments (Table 3)",
            [
                ("spectral", spectral()),
                ("spectral, k found", spectral(segments="auto")),
                ("k-means on f", kmeans()),
                (f"spectral, power {POWER:g}", powered()),
                (f"spectral, power {POWER:g}, timestep {WITH_NOISE}",
                 powered(timestep=WITH_NOISE)),
                (f"k-means on f, timestep {WITH_NOISE}", kmeans(timestep=WITH_NOISE)),
                *(
                    (f"DiffSeg, threshold {threshold:g}",
                     Setting.of("diffseg", kl_threshold=threshold))
                    for threshold in THRESHOLDS
                    if HEADS["diffseg"].offered(manifest)
                ),
            ],
        ),
        table(
            "4",
            "Timestep (Table 4)",
            [
                (f"{pooling}, timestep {t}", named(pooling=pooling, timestep=t))
                for pooling in POOLINGS
                for t in timesteps
            ],
        ),
        table(
            "5",
            "Attention strides (Table 5)",
            [
                (f"{pooling}, {_joined(chosen)}", named(pooling=pooling, attention_strides=chosen))
                for pooling in POOLINGS
                for chosen in _subsets(attention)
            ],
        ),
        table(
            "6",
            "Feature strides (Table 6)",
            [
                (f"{pooling}, {_joined(chosen)}", named(pooling=pooling, feature_strides=chosen))
                for pooling in POOLINGS
                for chosen in _subsets(features)
            ]
            + [
                (f"k-means, {_joined(chosen)}", kmeans(feature_strides=chosen))
                for chosen in _subsets(features)
            ],
        ),
        table(
            "7",
            "Prototypes and prompts (Table 7)",
            [
                *(
                    (f"{pooling}, {'visible names' if names == 'present' else 'every name'}",
                     named(pooling=pooling, prompt_classes=names))
                    for pooling in POOLINGS
                    for names in PROMPTS
                ),
                ("prototypes from ground truth", fitted()),
                ("prototypes from ground truth, visible names", fitted(prompt_classes="present")),
            ],
        ),
    ]  # fmt: skip


def _joined(strides: Sequence[int]) -> str:
    return "+".join(map(str, strides))


def _subsets(strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Every choice of some strides, the finest first."""
    ordered = sorted(strides)
    return [
        chosen for count in range(1, len(ordered) + 1) for chosen in combinations(ordered, count)
    ]
