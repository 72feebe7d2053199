"""What a command asks of pictures: names or segments, and the head that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from ..runtime.bundle.contract import MOST_SEGMENTS
from ..runtime.heads.options import Refine
from .groups import option

if TYPE_CHECKING:
    from ..runtime.heads import Head


class Segments(click.ParamType):  # type: ignore[type-arg]
    """`--segments`: a number, or "auto"."""

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


def choose_head(
    name: str | None, unsupervised: bool, classes: str | None, engine: Path | None
) -> Head:
    """The head that was asked for: by its name, else the engine's own for names or for segments.

    Raises:
        BundleError: there is no such engine.
        click.UsageError: it is of another kind than the other options ask for.
        MdrtError: there is none of this name.
    """
    from ..runtime.bundle.loading import load_bundle
    from ..runtime.heads import HEADS, default_head, find_head
    from ..runtime.segmenter import EMBEDDED

    if unsupervised and classes is not None:
        raise click.UsageError("--classes and --unsupervised exclude each other")
    kind: Literal["named", "unnamed"] = (
        "unnamed" if unsupervised or (_counted() and classes is None) else "named"
    )
    if name is None:
        found = load_bundle(EMBEDDED if engine is None else engine, verify=False)
        return default_head(found.manifest, kind)
    head = find_head(name)
    fitting = [head for head in HEADS.values() if head.kind == kind]
    if head.kind != kind and (unsupervised or classes is not None):
        word, gives = (
            ("--unsupervised", "unnamed segments")
            if unsupervised
            else ("--classes", "named classes")
        )
        raise click.UsageError(
            f"{word} needs a head for {gives}, one of {', '.join(h.name for h in fitting)}; "
            f"{name} is for {head.kind} ones"
        )
    return head


def check_words(head: Head, background: str | None, segments: int | Literal["auto"]) -> None:
    """See that the words for names or segments are of a head that takes them.

    Raises:
        click.UsageError: they are not.
        MdrtError: the head finds by itself how many segments there are.
    """
    if head.kind == "named" and _counted():
        raise click.UsageError(
            f"--segments is for segments without names, and {head.name} takes names"
        )
    if head.kind == "unnamed" and background is not None:
        raise click.UsageError("--background needs class names")
    head.check_count(segments)


def _counted() -> bool:
    """Whether `--segments` was given."""
    source = click.get_current_context().get_parameter_source("segments")
    return source is not click.core.ParameterSource.DEFAULT


def refine_option(of: str) -> Callable[[Any], Any]:
    """`--refine`, short for a setting of every head; `of` is what is segmented, for the help."""
    return option(
        "--refine",
        type=click.Choice(get_args(Refine)),
        help=f"What makes boundaries follow the {of}'s edges; short for --set refine=….",
    )


def with_refine(settings: Mapping[str, str], refine: str | None) -> Mapping[str, str]:
    """Settings in which `--refine` is one more."""
    if refine is None:
        return settings
    if "refine" in settings:
        raise click.UsageError("--refine and --set refine=… say the same; give one")
    return {**settings, "refine": refine}
