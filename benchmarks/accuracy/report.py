"""What an evaluation found: tables for people, JSON for programs, charts for both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from .ledger import Ledger, told
from .paper import Published, published, unlike
from .protocols import PROTOCOLS, interval
from .settings import Entry
from .store import Store

ORANGE: Final = "#d95f02"
"""Of what a chart points at."""


@dataclass(frozen=True)
class ScoreRow:
    """One entry's figures, in per cent.

    Attributes:
        entry: what was scored, and how.
        ledger: all that the figures depend on.
        images: pictures that count.
        miou, low, high: mIoU and its 95 % bootstrap interval.
        accuracy: share of the pixels that are right.
        boundary: mean boundary IoU, None where it was not counted.
        iou: by class, None for one in neither map.
        paper: the paper's figure for the same choices, if it has one.
        unlike: what that is of and this is not, so that the two do not compare; "" if nothing.
    """

    entry: Entry
    ledger: Ledger
    images: int
    miou: float
    low: float
    high: float
    accuracy: float
    boundary: float | None
    iou: tuple[float | None, ...]
    paper: Published | None = None
    unlike: str = ""

    @property
    def compared(self) -> Published | None:
        """The paper's figure, if it compares."""
        return None if self.unlike else self.paper


def row(store: Store, entry: Entry, images: Collection[str] | None = None) -> ScoreRow | None:
    """The figures of an entry over every picture, or those among `images`; None where none of
    them was scored."""
    counts, protocol = store.counts(entry.key, images), PROTOCOLS[entry.protocol]
    if not counts:
        return None
    classes = len(store.meta["classes"])
    found = protocol.score(counts, classes)
    low, high = interval(protocol, counts, classes)
    edges = store.boundaries(entry.key, images)
    boundary = None
    if len(edges) == len(counts):  # otherwise only some were scored with them
        hit, union = np.sum(edges, axis=0)
        boundary = 100 * float((hit[union > 0] / union[union > 0]).mean())
    by_class = tuple(None if np.isnan(value) else float(value) for value in found.iou)
    known = published(store.meta["dataset"], entry.setting, store.meta)
    differs = known and unlike(known, entry, store.meta.get("vocabulary"), len(counts))
    return ScoreRow(
        entry,
        Ledger.of(store.meta, entry, len(counts), protocol.chosen(counts)),
        len(counts),
        found.miou,
        low,
        high,
        found.accuracy,
        boundary,
        by_class,
        known,
        differs or "",
    )


def markdown(rows: Sequence[ScoreRow], labels: Sequence[str] | None = None) -> str:
    """A table with a row an entry: figures, the interval, the protocol, and the paper's figure;
    above it, what the figures are of; below it, why one of the paper's is not there."""
    names = labels or [r.entry.setting.words for r in rows]
    edges = any(r.boundary is not None for r in rows)
    paper = any(r.compared for r in rows)
    head = ["head", "setting", "mIoU", "95 %", "accuracy"]
    head += ["boundary IoU"] * edges + ["the paper"] * paper + ["protocol", "pictures"]
    lines = [f"{line[0].upper()}{line[1:]}.\n" for line in told([r.ledger for r in rows])]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, r in zip(names, rows, strict=True):
        cells = [r.entry.setting.head, name, f"{r.miou:.1f}", f"{r.low:.1f}–{r.high:.1f}"]
        cells.append(f"{r.accuracy:.1f}")
        if edges:
            cells.append("" if r.boundary is None else f"{r.boundary:.1f}")
        if paper:
            cells.append(f"{r.compared.miou} ({r.compared.tables})" if r.compared else "")
        cells += [f"`{r.entry.protocol}`", f"{r.images}"]
        lines.append("| " + " | ".join(cells) + " |")
    below = [f"\n{note[0].upper()}{note[1:]}." for note in notes(rows)]
    return "\n".join(lines + below) + "\n"


def notes(rows: Sequence[ScoreRow]) -> list[str]:
    """Why figures of the paper do not stand beside their rows, a line a reason."""
    by_reason: dict[str, dict[str, None]] = {}
    for r in rows:
        if r.paper is not None and r.unlike:
            by_reason.setdefault(r.unlike, {})[f"{r.paper.miou}"] = None
    return [
        f"the paper's {', '.join(found)} {'is' if len(found) == 1 else 'are'} {reason}"
        for reason, found in by_reason.items()
    ]


def as_plain(
    store: Store, rows: Sequence[ScoreRow], images: Collection[str] | None = None
) -> dict[str, Any]:
    """Everything that was found, as plain values; problems of every picture or of `images`."""
    names = [names[0] for names in store.meta["classes"]]
    return {
        **{key: value for key, value in store.meta.items() if key != "classes"},
        "results": [
            {
                **asdict(r.entry.setting),
                "protocol": r.entry.protocol,
                "pictures": r.images,
                "miou": r.miou,
                "interval": [r.low, r.high],
                "accuracy": r.accuracy,
                "boundary_iou": r.boundary,
                "ledger": asdict(r.ledger),
                "iou": dict(zip(names, r.iou, strict=True)),
                "paper": r.compared and {"miou": r.compared.miou, "tables": r.compared.tables},
                "paper_left_out": next(iter(notes([r])), None),
            }
            for r in rows
        ],
        "problems": store.problems(images),
    }


def draw_bars(
    axes: Any,
    title: str,
    labels: Sequence[str],
    rows: Sequence[ScoreRow],
    shown: Sequence[str] = (),
) -> None:
    """mIoU with its interval, a bar an entry, on Matplotlib's axes; those of `shown` in orange."""
    spans = np.array([[r.miou - r.low, r.high - r.miou] for r in rows]).T
    places = range(len(rows))
    paint = [ORANGE if label in shown else "#4c78a8" for label in labels]
    values = [r.miou for r in rows]
    axes.barh(places, values, xerr=np.maximum(spans, 0), color=paint, ecolor="#555555")
    axes.set_yticks(places, labels)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def draw(title: str, labels: Sequence[str], rows: Sequence[ScoreRow], file: BinaryIO) -> None:
    """mIoU with its interval, a bar an entry, and the paper's figure where it has one, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.42 * len(rows)), layout="constrained")
    draw_bars(axes, title, labels, rows)
    known = {place: r.compared.miou for place, r in enumerate(rows) if r.compared is not None}
    if known:
        axes.plot(list(known.values()), list(known), "D", color=ORANGE, label="the paper")
        axes.legend(fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mIoU, %")
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
