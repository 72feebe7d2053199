"""`mdrt segment`: pictures in, label maps, overlays and records out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from ..runtime.bundle.contract import MODES, MOST_SEGMENTS, POOLINGS
from ..runtime.disk.atomic import write_atomically
from ..runtime.errors import MdrtError, PromptError
from ..runtime.look.prompts import load_classes, with_background
from ..runtime.overlap import overlap
from ..runtime.pictures.output import check_targets, choose_stems, output_folder, result_files
from ..runtime.sessions.providers import PROVIDERS
from .debug import debug_option, debugging

RECOMMENDED = "[default: what the bundle recommends]"

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


class _Segments(click.ParamType):  # type: ignore[type-arg]
    name = "auto|K"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | Literal["auto"]:
        if value == "auto":
            return "auto"
        try:
            count = int(value)
        except ValueError:
            count = 0
        if not 1 <= count <= MOST_SEGMENTS:
            self.fail(
                f"{value!r} is neither 'auto' nor a number from 1 to {MOST_SEGMENTS}", param, ctx
            )
        return count


@click.command("segment")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--classes",
    metavar="NAMES|FILE",
    help='Names, as in "sky, grass, traffic light"; or a text file with one class a line and '
    "commas between synonyms. The embedded model uses its own names if none are given.",
)
@click.option("--unsupervised", is_flag=True, help="Find segments without names.")
@click.option(
    "--segments",
    type=_Segments(),
    default="auto",
    show_default=True,
    help="How many segments (with --unsupervised); auto finds it in the features.",
)
@click.option(
    "--method",
    type=click.Choice(["spectral", "kmeans"]),
    default="spectral",
    show_default=True,
    help="How unnamed segments are found.",
)
@click.option(
    "-e",
    "--engine",
    type=click.Path(path_type=Path),
    help="A bundle directory, its unet.onnx or its unet.plan.  [default: the embedded model]",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help=f"The paper's equations as written, or as the released code does it.  {RECOMMENDED}",
)
@click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    help="How attention logits become class maps: their exp, softmax over tokens, or the "
    f"logit itself (Eq. 4).  {RECOMMENDED}",
)
@click.option(
    "--timestep",
    type=int,
    help=f"Noise level, an index from 0 (the paper's t = 1).  {RECOMMENDED}",
)
@click.option(
    "--presence",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="Leave out names that win less than this share of the attention's cells, as 0.01: they "
    f"are not in the picture. 0 keeps all; others need softmax pooling.  {RECOMMENDED}",
)
@click.option(
    "--sharpness",
    type=click.FloatRange(0, min_open=True),
    metavar="POWER",
    help="Power of a class's map that its prototype is averaged with: 1 is the paper's, 2 trusts "
    "the map's peaks more. With --unsupervised the power of the affinity: 4 sets like cells apart "
    f"from others.  {RECOMMENDED}",
)
@click.option(
    "--attention",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of a class's own map in a pixel's score, where the cosine to its prototype has the "
    f"rest: 0 is the paper's, 1 the maps alone.  {RECOMMENDED}",
)
@click.option(
    "--refine/--no-refine",
    default=None,
    help="Let boundaries follow the picture's edges, by a guided filter of the scores.  "
    f"{RECOMMENDED}",
)
@click.option(
    "--background",
    metavar="NAME",
    help="A class to leave uncoloured; added to the classes if it is not among them.",
)
@click.option(
    "--max-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Reduce a picture's longer side to this for the network; never below the size that was "
    "trained on, to which smaller pictures are enlarged. Masks keep the picture's own size.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Folder for the results.",
)
@click.option(
    "--overlay/--no-overlay",
    default=True,
    show_default=True,
    help="Also write the picture with coloured classes and a legend.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files of other origin too; results of earlier runs are replaced in any case, "
    "inputs never.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON record a picture on standard output instead of tables.",
)
@click.option(
    "--provider",
    metavar="|".join(PROVIDERS),
    help="Where ONNX Runtime runs the graphs of unet.onnx.  [default: cpu]",
)
@click.option(
    "--allow-cpu-nodes",
    is_flag=True,
    help="Let another provider leave nodes to the CPU, which is an error otherwise; the record "
    "counts them.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of one operator.  [default: every core]"
)
@click.option(
    "--winograd/--no-winograd",
    default=None,
    help="Large convolutions by minimal filtering: on a CPU about three times as fast, within "
    "about 1e-5 of direct ones.  [default: where the bundle and this machine have it]",
)
@click.option(
    "--cuda-graphs/--no-cuda-graphs",
    default=True,
    help="Capture what TensorRT engines (unet.plan) run repeatedly, so that it starts at once.  "
    "[default: yes]",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what ran when, stages and graph nodes, as a trace for Perfetto or Chrome.",
)
@debug_option
def segment_command(
    images: tuple[str, ...],
    classes: str | None,
    unsupervised: bool,
    segments: int | Literal["auto"],
    method: Literal["spectral", "kmeans"],
    engine: Path | None,
    mode: Literal["paper", "released"] | None,
    pooling: Literal["exp", "softmax", "logit"] | None,
    timestep: int | None,
    presence: float | None,
    sharpness: float | None,
    attention: float | None,
    refine: bool | None,
    background: str | None,
    max_size: int | None,
    out: Path,
    overlay: bool,
    overwrite: bool,
    as_json: bool,
    provider: str | None,
    allow_cpu_nodes: bool,
    threads: int | None,
    winograd: bool | None,
    cuda_graphs: bool,
    profile: Path | None,
) -> None:
    """Segment pictures (files, or folders of them) into named classes or unnamed segments.

    For each picture the output folder receives NAME.png (labels as a palette image of the
    picture's own size; value = position in the class list), NAME.overlay.png and NAME.json.

    \b
    mdrt segment beach.jpg --classes "sky, sand, water, person"
    mdrt segment photos/ --classes classes.txt --engine sd15 --out masks
    mdrt segment beach.jpg --unsupervised --segments 6
    """
    from ..runtime.segmenter import Options, Segmenter
    from ..runtime.sessions.trace import Trace
    from .pictures import Batch, Job, progress_bar, say

    if unsupervised and classes is not None:
        raise click.UsageError("--classes and --unsupervised exclude each other")
    source = click.get_current_context().get_parameter_source
    for option in ("segments", "method"):
        if not unsupervised and source(option) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{option} goes with --unsupervised")
    if unsupervised and background is not None:
        raise click.UsageError("--background needs class names")
    for option, value in (("presence", presence), ("attention", attention)):
        if unsupervised and value is not None:
            raise click.UsageError(f"--{option} needs class names")
    options = Options(
        mode,
        pooling,
        timestep,
        method,
        max_size,
        presence=presence,
        sharpness=sharpness,
        attention=attention,
        refine=refine,
    )
    names = None if classes is None else list(load_classes(classes))
    paths = list(dict.fromkeys(_pictures(images)))
    stems = choose_stems(paths)
    inputs = [*paths, Path(classes)] if classes is not None and os.path.isfile(classes) else paths
    results = [result_files(out, stem, overlay) for stem in stems.values()]
    check_targets(results, inputs, overwrite)
    trace = None if profile is None else Trace()
    segmenter = Segmenter(
        engine,
        provider=provider,
        threads=threads,
        winograd=winograd,
        cuda_graphs=cuda_graphs,
        allow_cpu_nodes=allow_cpu_nodes,
        trace=trace,
    )
    if names is None and not unsupervised:
        names = list(segmenter.manifest.classes)
        if not names:
            raise PromptError('no class names; give --classes "sky, grass", or --unsupervised')
    if names is not None and background is not None:
        names, background = with_background(names, background)
    options = segmenter.settle(options, names is not None)  # like the class list: once, and now
    console = Console(stderr=True)
    native = segmenter.manifest.native_size
    if max_size is not None and max_size < native:
        say(
            console,
            "warning",
            f"--max-size {max_size} is below the model's native size; "
            f"it sees every picture at {native} pixels instead",
        )
    if names is not None:
        segmenter.network.encode_text(names)  # a wrong class list fails once, before any picture
        if unknown := segmenter.unknown(names):
            known = ", ".join(segmenter.manifest.classes)
            say(
                console,
                "warning",
                f"{segmenter.manifest.model_id} never saw {', '.join(unknown)}; it knows: {known}. "
                "Export a Stable Diffusion checkpoint for other names.",
            )
    if names is None or options.mode == "released":
        segmenter.network.encode_text(None)
    if trace is None:
        segmenter.network.release_text()  # every text is encoded; its weights are not needed again
    job = Job(names, None if names is not None else segments, background, out, overlay)
    with output_folder(out), progress_bar(console) as progress:
        batch = Batch(segmenter, job, options, stems, progress, as_json, trace, debugging())
        done = overlap(paths, batch.read, batch.segment, batch.finish)
    if trace is not None and profile is not None:
        network = segmenter.network
        trace.collect(network.vae, network.text, network.unet)
        write_atomically(profile, trace.write)
        say(console, "profile", f"open {profile} in https://ui.perfetto.dev or chrome://tracing")
    if failures := done.count(False):
        raise click.ClickException(f"{failures} of {len(paths)} pictures failed")


def _pictures(arguments: Sequence[str]) -> Iterator[Path]:
    """Files as given; a folder stands for the pictures in it."""
    for argument in arguments:
        path = Path(argument)
        if not os.path.isdir(argument):  # pathlib's raises for over-long names
            yield path
            continue
        found = sorted(p for p in path.iterdir() if _is_picture(p))
        if not found:
            raise MdrtError(f"folder {path} holds no picture ({', '.join(sorted(PICTURES))})")
        yield from found


def _is_picture(path: Path) -> bool:
    """Whether an entry of a folder is meant: no sub-folder, and nothing hidden."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in PICTURES and not hidden and not path.is_dir()
