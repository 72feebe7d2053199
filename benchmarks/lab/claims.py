"""What the paper claims, beside what a sweep over the scenes world found: a page, and a figure
a claim.

The verdicts are computed from the counts of the sweep; only the reasons are written by hand, and a
reason is printed where a verdict calls for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...cli.options import engine_option
from ...runtime.disk.atomic import write_atomically
from ...runtime.errors import DatasetError, MdrtError
from ...runtime.segmenter import Segmenter
from ..accuracy.evaluate import label
from ..accuracy.protocols import PROTOCOLS, gain_interval
from ..accuracy.report import ScoreRow, draw_bars, markdown, row
from ..accuracy.settings import Entry
from ..accuracy.store import RESULTS, Store
from ..accuracy.sweep import POOLINGS, SweepTable, tables
from ..metrics import match
from .scenes.gallery import painted, seeds
from .scenes.renderer import CLASSES, render

HEAD: Final = """\
# The paper's claims on the scenes world

Written by `make evaluation` (`mdrt eval sweep scenes`, then `claims` of the lab) from {pictures}
held-out scenes and the model {model}, exported with all its strides. mIoU in per cent; a gain is in
points, its 95 % interval from 1,000 paired bootstrap draws of the pictures. A comparison *agrees*
where the whole interval is above nought. Where nothing else is said: all 14 names in the prompt,
timestep 0, mode `paper`, every name taken as present; `exp` is the official code's pooling of
the logits of Eq. 4, `softmax` the one that the embedded model recommends. The scenes drawn are the
first held-out seeds with four visible classes or more. What one small model on drawn scenes shows
is no verdict on Stable Diffusion: `mdrt eval sweep` with a data set of yours gives that.
"""

AGREES: Final = "agrees"
DISAGREES: Final = "**disagrees**"
OPEN: Final = "no clear difference"


BARS: Final = 8
"""Bars that a figure has room for at the least."""


@dataclass(frozen=True)
class Claim:
    """One claim and the rows of the sweep that test it.

    Attributes:
        id: of its figure's file.
        title: above it.
        says: what the paper says or does.
        table: of the sweep, by id.
        pairs: labels of two rows each: the one that should be better, and the other.
        shown: labels of the rows that are drawn as pictures.
        why: where this model disagrees, the reason.
    """

    id: str
    title: str
    says: str
    table: str
    pairs: tuple[tuple[str, str], ...]
    shown: tuple[str, ...]
    why: str


CLAIMS: Final = (
    Claim(
        "features",
        "Features and attention against attention alone",
        "Class maps of cross-attention are vague; prototypes averaged with them and compared with "
        "the internal features give better masks (Eq. 5 and 6, Table 2).",
        "features",
        tuple(
            (f"maskdiffusion, {prompt}", f"attention, {prompt}")
            for prompt in ("exp", "softmax", "exp, visible names", "softmax, visible names")
        ),
        ("attention, exp, visible names", "maskdiffusion, exp, visible names"),
        "With softmax over the tokens the maps of this model are already sharp: the text enters "
        "at the finest grid, which is also that of the features, where Stable Diffusion's maps "
        "are a quarter or an eighth of it. What the features add there is little, and averaging "
        "over a class's whole map costs the small things.",
    ),
    Claim(
        "clustering",
        "Spectral clustering against k-means",
        "Unnamed segments from the affinity of the features (Eq. 7) are better than k-means on "
        "the features themselves (Table 3: 28.5 against 23.3 on Cityscapes, 58.4 against 35.0 "
        "on COCO-Stuff-27).",
        "3",
        (
            ("spectral", "k-means on f"),
            ("spectral, power 8", "k-means on f"),
            ("spectral, power 8, timestep 200", "k-means on f, timestep 200"),
        ),
        ("spectral", "spectral, power 8", "k-means on f"),
        "A picture of the scenes world has about five segments in a few hundred cells, and k-means "
        "started well (greedy k-means++, 24 runs) finds its optimum there. The affinity takes "
        "every cosine as it is, and of this model's nearly all are positive: cuts are blurred. The "
        "eighth power of the cosines, between the network's own cells, clears them.",
    ),
    Claim(
        "timestep",
        "Little noise",
        "Features and maps are read at t = 1, from a picture nearly without noise (Table 4, "
        "Cityscapes: 17.1 at t = 1, 5.5 at 10, 2.4 at 100, 0.9 at 500).",
        "4",
        tuple(
            (f"{pooling}, timestep 0", f"{pooling}, timestep {t}")
            for pooling in POOLINGS
            for t in (99, 200, 400, 700)
        ),
        ("softmax, timestep 0", "softmax, timestep 400", "softmax, timestep 700"),
        "Its training drew timesteps towards noise, since the caption teaches most where the "
        "picture tells least; the words' maps are best where they were needed. The bundle "
        "recommends 400 for names and 200 for unnamed segments.",
    ),
    Claim(
        "attention-strides",
        "Attention of two strides",
        "Maps of strides 64 and 32 are better than with those of finer layers added (Table 5, "
        "Cityscapes: 17.1, with stride 16 14.5, with 16 and 8 12.5).",
        "5",
        (),
        ("exp, 16", "softmax, 16"),
        "This model cannot test it: its text enters at one stride. A first model, which read the "
        "caption at strides 16, 32 and 64, had maps at chance at 32 and 64 (area under the ROC "
        "curve 0.43 to 0.63 after 1,066 steps, 0.65 to 0.75 at 16; docs/notes/scenes.md).",
    ),
    Claim(
        "feature-strides",
        "Features of three strides",
        "k-means on features of strides 64, 32 and 16 together is better than on fewer, or with "
        "finer ones added (Table 6, Cityscapes: 23.3; of 64 and 32 20.3, of 16 17.2, of 8 14.8, of "
        "all four 14.8). Beside it, what the same choice does to named classes.",
        "6",
        tuple(
            (f"{how}, 16+32+64", f"{how}, {strides}")
            for how, others in (
                ("k-means", ("16", "32", "64", "32+64")),
                *((pooling, ("16", "32", "64")) for pooling in POOLINGS),
            )
            for strides in others
        ),
        ("exp, 16", "exp, 64", "exp, 16+32+64"),
        "Seen at 384², stride 64 is a grid of 6×6 and pulls neighbours together; the paper's 512² "
        "pictures have more cells, and Stable Diffusion's coarse features more meaning. The "
        "embedded bundle returns stride 16 alone.",
    ),
    Claim(
        "ground-truth",
        "Prototypes from ground truth",
        "Prototypes from the masks of a training split, instead of from the words' maps, show "
        "what the features could do: far more (Table 7: 35.0 against 17.1 on Cityscapes, 53.7 "
        "against 29.9 on VOC, 39.8 against 13.0 on COCO-Stuff-27).",
        "7",
        (
            ("prototypes from ground truth", "exp, every name"),
            ("prototypes from ground truth", "softmax, every name"),
            ("prototypes from ground truth, visible names", "softmax, visible names"),
        ),
        ("softmax, every name", "prototypes from ground truth"),
        "The words' maps of a picture follow that picture; prototypes of a split are averages of "
        "many.",
    ),
    Claim(
        "dynamic-prompts",
        "Dynamic prompts",
        "Only the names that are present in the prompt: far better than every name (Table 7: "
        "21.6 against 17.1 on Cityscapes, 87.2 against 29.9 on VOC, 40.5 against 13.0 on "
        "COCO-Stuff-27).",
        "7",
        (
            ("exp, visible names", "exp, every name"),
            ("softmax, visible names", "softmax, every name"),
            (
                "prototypes from ground truth, visible names",
                "prototypes from ground truth",
            ),
        ),
        ("exp, every name", "exp, visible names"),
        "",
    ),
    Claim(
        "modes",
        "The equations against the released code",
        "it compares by cosine, with prototypes normalised (Eq. 5 and 6, mode `paper`); "
        "the released code leaves the prototypes' lengths in and sees the picture squashed (mode "
        "`released`). No difference is claimed; the equations should not be worse.",
        "modes",
        (("paper, exp", "released, exp"), ("paper, softmax", "released, softmax")),
        ("paper, softmax", "released, softmax"),
        "A prototype averaged with a vague map is short, since what it averages points many ways; "
        "leaving its length in holds back classes whose map points nowhere, as absent ones' do.",
    ),
)


@dataclass(frozen=True)
class Comparison:
    """One pair: mIoU of both in per cent, and the gain in points with its 95 % interval."""

    better: ScoreRow
    worse: ScoreRow
    labels: tuple[str, str]
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the interval of the gain is above nought, below it, or around it."""
        if self.low > 0:
            return AGREES
        return DISAGREES if self.high < 0 else OPEN


def compare(store: Store, claim: Claim, table: SweepTable) -> list[Comparison]:
    """Every pair of a claim whose rows were scored, over the pictures of both."""
    entries = dict(table.rows)
    classes = len(store.meta["classes"])
    found = []
    for labels in claim.pairs:
        first, second = (entries.get(name) for name in labels)
        if first is None or second is None:
            continue
        both = store.images(first.key) & store.images(second.key)
        better, worse = row(store, first, both), row(store, second, both)
        if better is None or worse is None:
            continue
        low, high = gain_interval(
            PROTOCOLS[first.protocol],
            store.counts(first.key, both),
            store.counts(second.key, both),
            classes,
        )
        found.append(Comparison(better, worse, labels, low, high))
    return found


def chapter(claim: Claim, found: Sequence[Comparison], figure: str) -> str:
    """One claim as Markdown: what the paper says, what was found, why it differs."""
    lines = [f"## {claim.title}", "", f"The paper: {claim.says}", ""]
    if found:
        lines += ["| | mIoU | against | mIoU | gain, 95 % | |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {c.labels[0]} | {c.better.miou:.1f} | {c.labels[1]} | {c.worse.miou:.1f} "
            f"| {c.better.miou - c.worse.miou:+.1f} ({c.low:+.1f} to {c.high:+.1f}) | {c.verdict} |"
            for c in found
        ]
        lines.append("")
    if claim.why and not (found and all(c.verdict == AGREES for c in found)):
        lines += [claim.why, ""]
    return "\n".join([*lines, f"![{claim.title}]({figure})", ""])


def summary(found: Mapping[str, Sequence[Comparison]]) -> str:
    """A table of all claims: how many of each one's comparisons agree."""
    lines = ["| claim | agrees | no clear difference | disagrees |", "|---|---|---|---|"]
    for claim in CLAIMS:
        verdicts = [c.verdict for c in found[claim.id]]
        counts = [str(verdicts.count(v) or "") for v in (AGREES, OPEN, DISAGREES)]
        cells = counts if verdicts else ["not testable on this model", "", ""]
        anchor = claim.title.lower().replace(" ", "-")
        lines.append(f"| [{claim.title}](#{anchor}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def appendix(store: Store, found: Sequence[SweepTable]) -> list[str]:
    """Every table of the sweep as Markdown."""
    lines = ["# Every row of the sweep", ""]
    for table in found:
        scored = [(label, r) for label, entry in table.rows if (r := row(store, entry)) is not None]
        if scored:
            labels, rows = zip(*scored, strict=True)
            lines += [f"## {table.title}", "", markdown(rows, labels)]
    return lines


def pictures(
    segmenter: Segmenter, store: Store, entries: Sequence[Entry], chosen: Sequence[int]
) -> list[list[NDArray[np.uint8]]]:
    """A row a seed: the scene, its truth, and the label maps of the entries, all (H, W, 3)."""
    rows = []
    for seed in chosen:
        scene = render(seed)
        cells, look = [scene.image, painted(scene.mask)], segmenter.look(scene.image)
        for setting in (entry.setting for entry in entries):
            labels = label(look, setting, CLASSES, scene.mask, store.fitted(setting.key))
            if setting.kind == "unnamed":
                labels = match(scene.mask, labels, len(CLASSES))
            cells.append(painted(labels))
        rows.append(cells)
    return rows


def draw(
    title: str,
    rows: Mapping[str, ScoreRow],
    shown: Sequence[str],
    cells: Sequence[Sequence[NDArray[np.uint8]]],
    file: BinaryIO,
) -> None:
    """Bars with intervals on the left, scenes under the settings on the right, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = ["input", "ground truth", *shown]
    height = max(0.9 + 0.3 * len(rows), 1.35 * len(cells) + 0.6)
    figure = plt.figure(figsize=(4.6 + 1.4 * len(columns), height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4.6, 1.4 * len(columns)))
    axes = left.subplots()
    draw_bars(axes, title, list(rows), list(rows.values()), shown)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(max(len(rows), BARS) - 0.5, -0.5)  # few bars stay as thin as many
    axes.set_xlabel("mIoU, %; orange: the settings on the right", fontsize=8)
    grid = right.subplots(len(cells), len(columns), squeeze=False)
    for line, pixels in zip(grid, cells, strict=True):
        for cell, picture in zip(line, pixels, strict=True):
            cell.imshow(picture, interpolation="nearest")
            cell.set_axis_off()
    for cell, name in zip(grid[0], columns, strict=True):
        cell.set_title(name.replace(", ", ",\n"), fontsize=7)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    plt.close(figure)
    palette = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(file, format="png", optimize=True)  # a third of the bytes


def write(
    store: Store, segmenter: Segmenter, found: Sequence[SweepTable], out: Path, scenes: int
) -> Path:
    """Write `claims.md` and a figure a claim in `claims/`; returns the page's path.

    Args:
        store: of a finished sweep over the scenes world.
        segmenter: the bundle it was made with.
        found: the sweep's tables.
        out: the folder.
        scenes: how many are drawn in every figure.

    Raises:
        DatasetError: none of the rows that a claim compares was scored.
    """
    by_id = {table.id: table for table in found}
    compared = {claim.id: compare(store, claim, by_id[claim.table]) for claim in CLAIMS}
    if not any(compared.values()):
        raise DatasetError(
            f"{store.path} holds no figures of a sweep; run `mdrt eval sweep scenes`"
        )
    chosen = list(seeds(scenes))
    chapters = []
    (out / "claims").mkdir(parents=True, exist_ok=True)
    for claim in CLAIMS:
        figure = f"claims/{claim.id}.png"
        entries = dict(by_id[claim.table].rows)
        named = {name for pair in claim.pairs for name in pair} | set(claim.shown)
        scored = {name: row(store, entry) for name, entry in entries.items() if name in named}
        rows = {name: r for name, r in scored.items() if r is not None}
        shown = [name for name in claim.shown if name in rows]
        cells = pictures(segmenter, store, [entries[name] for name in shown], chosen)
        write_atomically(out / figure, partial(draw, claim.title, rows, shown, cells))
        chapters.append(chapter(claim, compared[claim.id], figure))
    head = HEAD.format(pictures=len(store.done()), model=store.meta["model"])
    text = "\n".join([head, summary(compared), *chapters, *appendix(store, found)])
    path = out / "claims.md"
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


@click.command("claims")
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@engine_option
@click.option(
    "--train-limit", type=click.IntRange(min=1), default=200, show_default=True, help="The sweep's."
)
@click.option(
    "--scenes",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Drawn in every figure.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("docs/notes"),
    show_default=True,
    help="Folder for claims.md and claims/*.png.",
)
def main(results: Path, engine: Path | None, train_limit: int, scenes: int, out: Path) -> None:
    """Which of the paper's claims a sweep over the scenes bears out: a page, a figure a claim.

    RESULTS is the --out folder of `mdrt eval sweep scenes`.
    """
    store = Store(results / RESULTS)
    if store.meta["dataset"] != "scenes":
        raise DatasetError(f"{results} holds results on {store.meta['dataset']}, expected scenes")
    segmenter = Segmenter(engine)
    if segmenter.manifest.sha256 != store.meta["bundle"]:
        raise MdrtError(f"{results} was made with another bundle; give that one with --engine")
    page = write(store, segmenter, tables(segmenter.manifest, 0, train_limit), out, scenes)
    click.echo(f"wrote {page} and {len(list((out / 'claims').glob('*.png')))} figures")
