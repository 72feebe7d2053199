"""`mdrt segment`: pictures in, label maps, overlays and records out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from PIL import Image
from rich.console import Console

from ..runtime.bundle.contract import OPERATORS
from ..runtime.disk.atomic import write_atomically
from ..runtime.errors import PromptError
from ..runtime.limits import within_memory
from ..runtime.look.prompts import class_file, load_classes, shown_names, with_background
from ..runtime.overlap import overlap
from ..runtime.pictures.output import choose_targets, output_folder
from ..runtime.writers import FORMATS, PNG
from .asking import Segments, check_words, choose_head, refine_option, with_refine
from .found import find_pictures
from .groups import Command, experts, group, option
from .options import (
    COUNT,
    engine_option,
    head_option,
    json_option,
    out_option,
    provider_option,
    set_option,
    threads_option,
)
from .telling import Telling

if TYPE_CHECKING:
    from ..runtime.look.prompts import ClassName
    from .pictures import Form

GONE: Final[Mapping[str, str]] = {
    "--method": "--head, as in --head kmeans",
    "--no-refine": "--refine none",
    "--sharpness": "--set map_power=…, and of unnamed segments --set affinity_power=… with "
    "--set affinity=cells",
    **{
        f"--{name}": f"--set {name}=…"
        for name in ("mode", "pooling", "timestep", "presence", "attention")
    },
}


@click.command("segment", cls=Command, gone=GONE)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@group(
    "What",
    option(
        "--classes",
        metavar="NAMES|@FILE",
        help='Names, as in "sky, grass, traffic light"; or @FILE, a text with one class a line and '
        "commas between synonyms (a name that ends in .txt needs no @). The embedded model uses "
        "its own names if none are given.",
    ),
    option("--unsupervised", is_flag=True, help="Find segments without names."),
    option(
        "--segments",
        type=Segments(),
        default="auto",
        show_default=True,
        help="How many segments without names; auto finds it in the picture.",
    ),
    option("--recursive", is_flag=True, help="Go into folders of folders; --out keeps the tree."),
)
@group(
    "How",
    head_option,
    set_option,
    refine_option("picture"),
    engine_option,
)
@group(
    "Results",
    out_option("the results", default=Path("out"), show_default=True),
    option(
        "--format",
        "formats",
        type=click.Choice(list(FORMATS)),
        multiple=True,
        default=(PNG,),
        metavar="NAME",
        help=f"How labels are written, may be repeated: {', '.join(FORMATS)}.  [default: {PNG}]",
    ),
    option(
        "--skip-existing",
        is_flag=True,
        help="Pass over pictures whose results, made the same way, are there already.",
    ),
    json_option,
)
@experts(
    option("--quiet", is_flag=True, help="Tell of warnings and errors only."),
    option(
        "--background",
        metavar="NAME",
        help="A class to leave uncoloured; added to the classes if it is not among them.",
    ),
    provider_option,
    option(
        "--overwrite",
        is_flag=True,
        help="Replace files of other origin too; results of earlier runs are replaced in any "
        "case, inputs never.",
    ),
    option(
        "--max-size",
        type=COUNT,
        metavar="PIXELS",
        help="Reduce a picture's longer side to this for the network; never below the size that "
        "was trained on, to which smaller pictures are enlarged. Masks keep the picture's own "
        "size.",
    ),
    option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop a picture whose networks and head take longer, and go on with the next.",
    ),
    option(
        "--max-side",
        type=COUNT,
        metavar="PIXELS",
        help="Refuse pictures with a longer side.",
    ),
    option(
        "--max-pixels",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MILLIONS",
        help="Refuse pictures of more pixels, before they are decoded.  [default: 89.4]",
    ),
    option(
        "--memory",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GIB",
        help="The most memory to take: a picture that needs more fails, and the next is worked "
        "on.  [default: all that is free]",
    ),
    option(
        "--overlay/--no-overlay",
        default=True,
        show_default=True,
        help="Also write the picture with coloured classes and a legend.",
    ),
    threads_option,
    option(
        "--operators",
        type=click.Choice(OPERATORS),
        help="Whose operators run the graphs on a CPU: mdrt's by bfloat16 products (for processors "
        "with AMX) or in float32 by minimal filtering, both within about 1e-5 of ONNX Runtime's.  "
        "[default: the fastest that bundle and machine have]",
    ),
    option(
        "--cuda-graphs/--no-cuda-graphs",
        default=True,
        help="Capture what TensorRT engines (unet.plan) run repeatedly, so that it starts at "
        "once.  [default: yes]",
    ),
    option(
        "--allow-cpu-nodes",
        is_flag=True,
        help="Let another provider leave nodes to the CPU, which is an error otherwise; the "
        "record counts them.",
    ),
    option(
        "--profile",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write what ran when, stages and graph nodes, as a trace for Perfetto or Chrome.",
    ),
)
def segment_command(
    images: tuple[str, ...],
    classes: str | None,
    unsupervised: bool,
    segments: int | Literal["auto"],
    recursive: bool,
    head: str | None,
    settings: Mapping[str, str],
    refine: str | None,
    engine: Path | None,
    out: Path,
    formats: tuple[str, ...],
    skip_existing: bool,
    quiet: bool,
    as_json: bool,
    background: str | None,
    provider: str | None,
    overwrite: bool,
    max_size: int | None,
    timeout: float | None,
    max_side: int | None,
    max_pixels: float | None,
    memory: float | None,
    overlay: bool,
    threads: int | None,
    operators: str | None,
    cuda_graphs: bool,
    allow_cpu_nodes: bool,
    profile: Path | None,
) -> None:
    """Segment pictures (files, or folders of them) into named classes or unnamed segments.

    For each picture the output folder receives NAME.png (labels as a palette image of the
    picture's own size; value = position in the class list), NAME.overlay.png and NAME.json; what
    other formats write has a folder each.

    \b
    mdrt segment beach.jpg --classes "sky, sand, water, person"
    mdrt segment photos/ --classes @classes.txt --engine sd15 --out masks
    mdrt segment beach.jpg --unsupervised
    mdrt segment beach.jpg --segments 6 --head kmeans --set timestep=200
    """
    from ..runtime.heads import parse
    from ..runtime.segmenter import Segmenter
    from ..runtime.sessions.device import Host
    from ..runtime.sessions.trace import Trace
    from ..runtime.writers.base import Run
    from ..runtime.writers.outputs import Outputs, check_outputs, needs_scores
    from .pictures import Batch, Job
    from .progress import progress_bar, say

    chosen = choose_head(head, unsupervised, classes, engine)
    check_words(chosen, background, segments)
    given = parse(chosen, with_refine(settings, refine))
    names = None if classes is None else list(load_classes(classes))
    console = Console(stderr=True)
    found = find_pictures(images, recursive, out)
    notes = list(found.notes)
    if classes is not None and names is not None:
        notes += _notes(classes, names, background, given)
    targets = choose_targets(out, found.pictures)
    listed = None if classes is None else class_file(classes)
    inputs = [*targets, *([] if listed is None else [listed])]
    seen = check_outputs(formats, out, targets, inputs, overlay, overwrite)
    trace = None if profile is None else Trace()
    segmenter = Segmenter(
        engine,
        provider=provider,
        threads=threads,
        operators=operators,
        cuda_graphs=cuda_graphs,
        allow_cpu_nodes=allow_cpu_nodes,
        trace=trace,
    )
    if names is None and chosen.kind == "named":
        names = list(segmenter.manifest.classes)
        if not names:
            raise PromptError('no class names; give --classes "sky, grass", or --unsupervised')
    if names is not None and background is not None:
        names, background = with_background(names, background)
    options = segmenter.settle(chosen, **given)  # like the class list: once, and now
    native = segmenter.manifest.image.native_size
    if max_size is not None and max_size < native:
        say(
            console,
            "warning",
            f"--max-size {max_size} is below the model's native size; "
            f"it sees every picture at {native} pixels instead",
        )
    network = segmenter.network
    if names is not None:
        segmenter.prepare(names)  # a wrong class list fails once, before any picture
    if chosen.wordless(options):
        network.words.encode(None)
    if trace is None:
        network.words.release()  # every text is encoded; its weights are not needed again
    for note in notes if not quiet else ():
        say(console, "note", note)
    used = {"head": chosen.name, "max_size": max_size, **vars(options)}
    run = Run(
        None if names is None else shown_names(names),
        background,
        segmenter.manifest.model_id,
        segmenter.manifest.sha256,
        used if names is not None else {**used, "segments": segments},
    )
    scores = needs_scores(formats)
    job = Job(
        chosen, vars(options), names, segments, background, max_size, scores, max_side, timeout
    )
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = round(max_pixels * 1e6)
    # a GPU's driver maps far more than it takes: there only what is asked for is a limit
    limited = memory is not None or isinstance(network.device, Host)
    most = None if memory is None else round(memory * (1 << 30))
    form: Form = "json" if as_json else "quiet" if quiet else "text"
    with (
        within_memory(most) if limited else nullcontext(),
        output_folder(out),
        progress_bar(console, quiet) as progress,
        Outputs(
            formats, out, run, targets, found.pictures, seen, overlay, skip_existing
        ) as outputs,
    ):
        batch = Batch(segmenter, job, outputs, out, progress, form, trace, Telling.of_call())
        todo = batch.todo(skip_existing)
        with batch.told():
            overlap(todo, batch.read, batch.segment, batch.finish)
    if trace is not None and profile is not None:
        trace.collect(*network.sessions)
        write_atomically(profile, trace.write)
        if not quiet:
            say(console, "profile", f"open {profile} in https://ui.perfetto.dev")
    if batch.failures:
        raise click.ClickException(f"{batch.failures} of {len(targets)} pictures failed")


def _notes(
    text: str, names: Sequence[ClassName], background: str | None, given: Mapping[str, Any]
) -> list[str]:
    """What may have gone wrong with names, as far as that can be seen."""
    left_out = given.get("threshold") or given.get("background", "none") != "none"
    if len(names) != 1 or background is not None or left_out:
        return []
    if class_file(text) is None and os.path.isfile(text):
        return [f"{text!r} is taken as a name; @{text} reads the file"]
    return ["one class alone takes every pixel; put commas between names"]
