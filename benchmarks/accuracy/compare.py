"""Several heads and bundles beside each other: figures, what each gains, what each costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from .ledger import told
from .paper import Cited, cited
from .protocols import PROTOCOLS, gain_interval
from .report import ScoreRow, row
from .settings import Entry
from .store import Store

COSTS: Final = (
    "seconds a picture: in the networks, of passes that no head before it asked for; and its own"
)
CITED_ARE: Final = "cited: published, of all pictures; not run here"


@dataclass(frozen=True)
class Contender:
    """A setting, scored by a protocol, on a bundle.

    Attributes:
        bundle: its folder in the comparison's.
        store: its counts.
        entry: what was scored.
    """

    bundle: str
    store: Store
    entry: Entry


@dataclass(frozen=True)
class ComparedRow:
    """One contender's figures.

    Attributes:
        bundle: as the contender's.
        score: over the pictures that all have.
        gain: mIoU less the first one's, in points, with its 95 % interval over pictures that are
            drawn for both alike; None of the first.
        seconds: mean a picture, in the networks and its own.
    """

    bundle: str
    score: ScoreRow
    gain: tuple[float, float, float] | None
    seconds: tuple[float, float] | None


@dataclass(frozen=True)
class ComparedTable:
    """What one protocol says: figures of two do not compare.

    Attributes:
        protocol: its id.
        rows: the first is what the others are compared with.
        cited: published figures that are counted alike.
    """

    protocol: str
    rows: tuple[ComparedRow, ...]
    cited: tuple[Cited, ...]

    @property
    def captions(self) -> list[str]:
        """What stands below it: what the figures are of."""
        lines = told([r.score.ledger for r in self.rows])
        return [*lines, COSTS, *[CITED_ARE] * bool(self.cited)]

    @property
    def cells(self) -> list[list[str]]:
        """Its rows as text, the head first."""
        found = [["bundle", "head", "mIoU", "95 %", "− first", "95 %", "networks s", "own s"]]
        for r in self.rows:
            score, setting = r.score, r.score.entry.setting
            gain = ["", ""]
            if r.gain is not None:
                gain = [f"{r.gain[0]:+.1f}", f"{r.gain[1]:+.1f} to {r.gain[2]:+.1f}"]
            seconds = ["", ""] if r.seconds is None else [f"{part:.3f}" for part in r.seconds]
            head = f"{setting.head}: {setting.words}"
            figures = [f"{score.miou:.1f}", f"{score.low:.1f}–{score.high:.1f}"]
            found.append([r.bundle, head, *figures, *gain, *seconds])
        for figure in self.cited:
            trained = ", trained" * figure.trained
            text = f"{figure.method} ({figure.table}{trained})"
            found.append(["cited", text, f"{figure.miou:.1f}", "", "", "", "", ""])
        return found


def compare(contenders: Sequence[Contender], images: Collection[str]) -> list[ComparedTable]:
    """A table a protocol, over those of `images` that all of its contenders have."""
    by_protocol: dict[str, list[Contender]] = {}
    for contender in contenders:
        by_protocol.setdefault(contender.entry.protocol, []).append(contender)
    found = []
    for protocol, part in by_protocol.items():
        shared = set(images).intersection(*(c.store.images(c.entry.key) for c in part))
        rows = [made for c in part if (made := _row(c, part[0], shared)) is not None]
        if rows:
            dataset = part[0].store.meta["dataset"]
            found.append(ComparedTable(protocol, tuple(rows), tuple(cited(dataset, protocol))))
    return found


def _row(one: Contender, first: Contender, images: Collection[str]) -> ComparedRow | None:
    score, base = row(one.store, one.entry, images), row(first.store, first.entry, images)
    if score is None or base is None:
        return None
    gain = None
    if one is not first:
        low, high = gain_interval(
            PROTOCOLS[one.entry.protocol],
            one.store.counts(one.entry.key, images),
            first.store.counts(first.entry.key, images),
            len(one.store.meta["classes"]),
        )
        gain = score.miou - base.miou, low, high
    return ComparedRow(one.bundle, score, gain, one.store.seconds(one.entry.key, images))


def markdown(tables: Sequence[ComparedTable]) -> str:
    """The report."""
    meta = tables[0].rows[0].score.ledger
    parts = [f"# {meta.dataset}, {meta.split}: heads and bundles\n"]
    for table in tables:
        pictures = table.rows[0].score.images
        head, *rows = ["| " + " | ".join(cells) + " |" for cells in table.cells]
        rule = "|" + "---|" * len(table.cells[0])
        parts.append(f"## Protocol `{table.protocol}`, {pictures} pictures\n")
        parts.append("\n".join([head, rule, *rows]) + "\n")
        parts += [f"{line[0].upper()}{line[1:]}.\n" for line in table.captions]
    return "\n".join(parts)


def as_plain(tables: Sequence[ComparedTable]) -> list[dict[str, Any]]:
    """Everything that was found, as plain values."""
    return [
        {
            "protocol": table.protocol,
            "rows": [
                {
                    "bundle": r.bundle,
                    **asdict(r.score.entry.setting),
                    "ledger": asdict(r.score.ledger),
                    "pictures": r.score.images,
                    "miou": r.score.miou,
                    "interval": [r.score.low, r.score.high],
                    "accuracy": r.score.accuracy,
                    "difference": r.gain and r.gain[0],
                    "difference_interval": r.gain and list(r.gain[1:]),
                    "network_seconds": r.seconds and r.seconds[0],
                    "own_seconds": r.seconds and r.seconds[1],
                }
                for r in table.rows
            ],
            "cited": [asdict(figure) for figure in table.cited],
        }
        for table in tables
    ]
