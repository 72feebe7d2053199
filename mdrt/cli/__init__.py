"""The `mdrt` command. Each subcommand imports what it needs when it runs."""

from __future__ import annotations

import io
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from .. import __version__
from ..runtime.errors import MdrtWarning
from .lazy import Lazy, LazyGroup
from .telling import DEBUG, Telling

COMMANDS = {
    "segment": Lazy("mdrt.cli.segment", "segment_command", "Segment pictures."),
    "batch": Lazy(
        "mdrt.cli.batch", "batch_command", "Segment very many pictures, on one machine or by Ray."
    ),
    "raster": Lazy("mdrt.cli.raster", "raster_command", "Segment a GeoTIFF of any size."),
    "serve": Lazy("mdrt.cli.serve", "serve_command", "A page and an HTTP API over one model."),
    "heads": Lazy("mdrt.cli.heads", "heads_command", "List the methods, and what tunes them."),
    "export": Lazy(
        "mdrt.cli.export",
        "export_command",
        "Convert a diffusers pipeline to a bundle of ONNX graphs.",
    ),
    "build": Lazy("mdrt.cli.build", "build_command", "Build TensorRT engines of a bundle."),
    "triton": Lazy(
        "mdrt.cli.triton", "triton_command", "Write a model repository for a Triton server."
    ),
    "eval": Lazy(
        "mdrt.cli.eval", "eval_command", "Measure accuracy on a data set, as the paper does."
    ),
    "bench": Lazy("mdrt.cli.bench", "bench_command", "Measure speed, memory and parity."),
}


class Terminated(SystemExit):
    """SIGTERM, as an exception: what is half-written is removed on the way out, as by Ctrl-C."""


def terminate(number: int, _frame: object) -> NoReturn:
    """What answers SIGTERM while a command runs."""
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the removal
    raise Terminated(128 + number)  # the status of a process that the signal ended


def _once_in_a_line(other: Callable[..., None]) -> Callable[..., None]:
    """What shows mdrt's own warnings, each once, in a line; others as they are."""
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if not issubclass(category, MdrtWarning):
            other(message, category, *where)
        elif str(message) not in told:
            from rich.console import Console

            from .progress import say

            told.add(str(message))
            say(Console(stderr=True), "warning", str(message))

    return show


class Commands(LazyGroup):
    """One line instead of a traceback for a user's mistake."""

    def invoke(self, context: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # no name may end a run
                stream.reconfigure(errors="backslashreplace")
        before = signal.signal(signal.SIGTERM, terminate)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", MdrtWarning)
                warnings.showwarning = _once_in_a_line(warnings.showwarning)
                return super().invoke(context)
        except Terminated:
            click.echo("Error: terminated", err=True)
            raise
        except KeyboardInterrupt:
            click.echo("Error: interrupted", err=True)
            raise Terminated(128 + signal.SIGINT) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own; and it ends quietly where who reads has read enough
        except Exception as error:
            telling = Telling.of_call()
            if telling.whole:
                traceback.print_exc()
            raise click.ClickException(telling.line(error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)


@click.group(cls=Commands, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mdrt")
@click.option("--debug", **DEBUG)
def main() -> None:
    """Segment any picture into classes you name, with a frozen Stable Diffusion model.

    \b
    mdrt segment photo.jpg --classes "sky, grass, traffic light"
    mdrt segment photo.jpg --unsupervised
    mdrt export stable-diffusion-v1-5/stable-diffusion-v1-5 --out sd15
    mdrt segment photo.jpg --classes "dog, street" --engine sd15
    """
