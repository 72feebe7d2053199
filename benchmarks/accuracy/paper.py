"""What the paper reports (arXiv 2403.11194, Tables 2 to 7), and of which choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from .protocols import PROTOCOLS
from .settings import DEFAULT_PROTOCOLS, Entry, PromptClasses, Setting, find_head

FEATURES: Final = (64, 32, 16)
ATTENTION: Final = (64, 32)
"""Strides the paper reads: sizes 8, 16 and 32, and 8 and 16, of a 512² picture."""


@dataclass(frozen=True)
class Published:
    """One figure of the paper.

    Attributes:
        dataset: as `mdrt eval` names it.
        head: as `mdrt eval` names it.
        miou: in per cent.
        tables: where it stands.
        timestep: index into ᾱ; t less one.
        features, attention: strides.
        prompt_classes: "all", or "present", the paper's dynamic prompts.
    """

    dataset: str
    head: str
    miou: float
    tables: str
    timestep: int = 0
    features: tuple[int, ...] = FEATURES
    attention: tuple[int, ...] = ATTENTION
    prompt_classes: PromptClasses = "all"


def _table(
    head: str, name: str, figures: Mapping[str, float], timestep: int = 0
) -> list[Published]:
    return [Published(data, head, miou, name, timestep) for data, miou in figures.items()]


FIGURES: Final = (
    *_table("maskdiffusion", "Tables 2, 4, 5, 7", {"cityscapes19": 17.1}),
    *_table("maskdiffusion", "Table 2", {"potsdam6": 21.2, "cocostuff171": 5.5}),
    *_table("maskdiffusion", "Tables 2, 7", {"voc20": 29.9}),
    *_table("maskdiffusion", "Table 7", {"cocostuff27": 13.0}),
    *_table(
        "spectral",
        "Table 3",
        {"cityscapes19": 28.5, "cityscapes27": 25.3, "cocostuff27": 58.4},
    ),
    *_table("kmeans", "Tables 3, 6", {"cityscapes19": 23.3}),
    *_table("kmeans", "Table 3", {"cityscapes27": 20.1, "cocostuff27": 35.0}),
    *_table("diffseg", "Table 3", {"cityscapes27": 21.2, "cocostuff27": 43.6}, 299),
    *(
        Published("cityscapes19", "maskdiffusion", miou, "Table 4", timestep=t - 1)
        for t, miou in ((10, 5.5), (100, 2.4), (500, 0.9))
    ),
    *(
        Published("cityscapes19", "maskdiffusion", miou, "Table 5", attention=strides)
        for strides, miou in (((64, 32, 16), 14.5), ((64, 32, 16, 8), 12.5))
    ),
    # sizes 128 to 8 (14.8) and 128 alone (13.8) are of a stride that no up block has
    *(
        Published("cityscapes19", "kmeans", miou, "Table 6", features=strides)
        for strides, miou in (
            ((8,), 14.8),
            ((16,), 17.2),
            ((64, 32), 20.3),
            ((64, 32, 16, 8), 14.8),
        )
    ),
    *_table(
        "prototypes-gt",
        "Table 7",
        {"cityscapes19": 35.0, "voc20": 53.7, "cocostuff27": 39.8},
    ),
    *(
        Published(dataset, "maskdiffusion", miou, "Table 7", prompt_classes="present")
        for dataset, miou in (("cityscapes19", 21.6), ("voc20", 87.2), ("cocostuff27", 40.5))
    ),
)


@dataclass(frozen=True)
class Cited:
    """A published figure of another method; nothing here runs it.

    Attributes:
        dataset: as `mdrt eval` names it.
        method: its name.
        miou: in per cent.
        table: where it stands.
        matching: of the protocols that count as it was counted.
        trained: whether the method learns masks, or from the data set's pictures.
    """

    dataset: str
    method: str
    miou: float
    table: str
    matching: Literal["none", "image", "dataset"]
    trained: bool = False


CITED: Final = (
    *(
        Cited(dataset, method, miou, "Table 2", "none")
        for method, figures in {
            "MaskCLIP": (10.4, 15.5, 28.6, 1.6),
            "GEM": (10.7, 16.3, 26.5, 0.8),
        }.items()
        for dataset, miou in zip(
            ("potsdam6", "cityscapes19", "voc20", "cocostuff171"), figures, strict=True
        )
    ),
    *(
        Cited(dataset, "k-means on DINOv2", miou, "Table 3", "image")
        for dataset, miou in {
            "cityscapes19": 20.5, "cityscapes27": 19.3, "cocostuff27": 33.8,
        }.items()
    ),
    # these rename their clusters once for the data set, and learn them from its pictures
    *(
        Cited(dataset, method, miou, "Table 3", "dataset", trained=True)
        for method, pair in {
            "HP": (18.4, 24.6), "STEGO": (21.0, 28.2), "PiCIE": (12.3, 13.8), "IIC": (6.4, 6.7),
        }.items()
        for dataset, miou in zip(("cityscapes27", "cocostuff27"), pair, strict=True)
    ),
    # the paper's own table of it is not at hand; learnt from COCO's masks
    Cited("ade150", "ODISE", 30.0, "arXiv 2303.04803, abstract", "none", trained=True),
)  # fmt: skip
"""The paper's Tables 2 and 3 beside its own rows, and what ODISE's authors report."""


def cited(dataset: str, protocol: str) -> list[Cited]:
    """The published figures that are counted as a protocol counts: the paper's own, each head as
    it chose it, and those of other methods."""
    way = PROTOCOLS[protocol]
    if way.positive or way.leftovers or way.sweep or way.average != "data set" or way.grid:
        return []
    own: dict[str, Cited] = {}
    for figure in FIGURES:  # a head's first one is of the paper's own choices
        kind = find_head(figure.head).kind
        matching: Literal["none", "image"] = "none" if kind == "named" else "image"
        if figure.dataset == dataset:
            one = Cited(
                dataset, f"{figure.head}, the paper's", figure.miou, figure.tables, matching
            )
            own.setdefault(figure.head, one)
    others = [figure for figure in CITED if figure.dataset == dataset]
    return [figure for figure in (*own.values(), *others) if figure.matching == way.matching]


PICTURES: Final[Mapping[str, tuple[int, ...]]] = {
    "cityscapes19": (500,),
    "cityscapes27": (500,),
    "voc20": (1449,),
    "cocostuff171": (5000,),
    "cocostuff27": (5000, 2175),
    "potsdam6": (14, 2016),
}
"""Pictures of the validation splits that the figures are of. The paper does not say whether it
takes all of COCO-Stuff or those that PiCIE chose, nor Potsdam's pictures whole or in tiles."""


def published(
    dataset: str, setting: Setting, strides: Mapping[str, Sequence[int]]
) -> Published | None:
    """The paper's figure for a row, if it has one.

    It is the row's where all that the paper varies is the same, and the pooling: whatever mdrt
    adds (mode, presence, powers, the maps' share, refinement) is for the reader to see beside it.

    Args:
        dataset: as `mdrt eval` names it.
        setting: of the row.
        strides: "features" and "attention" of the bundle, which None in a setting stands for.
    """
    for figure in FIGURES:
        if (
            figure.dataset == dataset
            and figure.head == setting.head
            and figure.timestep == setting.options.timestep
            and figure.prompt_classes == setting.prompt_classes
            and setting.segments == "present"
            and _same(vars(setting.options), strides, figure)
        ):
            return figure
    return None


def _same(
    options: Mapping[str, Any], strides: Mapping[str, Sequence[int]], figure: Published
) -> bool:
    """Whether what the head reads of the networks is what the figure's did."""
    return options.get("pooling", "exp") == "exp" and all(
        set(options[option] or strides[tap]) == set(read)
        for option, tap, read in (
            ("feature_strides", "features", figure.features),
            ("attention_strides", "attention", figure.attention),
        )
        if option in options
    )


def unlike(figure: Published, entry: Entry, vocabulary: int | None, pictures: int) -> str:
    """What the paper's figure is of and a row is not, which ends "the paper's figure is …"; ""
    where the two compare.

    Args:
        figure: the paper's for the row's choices.
        entry: of the row.
        vocabulary: how many names the model knows; None of one that takes any.
        pictures: that were scored.
    """
    own = PROTOCOLS[entry.protocol]
    if vocabulary is not None:
        return f"of a model that takes any name; this one knows {vocabulary}"
    if own.positive or (own.matching == "none") != (entry.setting.kind == "named"):
        return f"by protocol {DEFAULT_PROTOCOLS[entry.setting.kind]}"
    if pictures not in PICTURES[figure.dataset]:
        whole = " or ".join(map(str, PICTURES[figure.dataset]))
        return f"of all {whole} pictures; scored here: {pictures}"
    return ""
