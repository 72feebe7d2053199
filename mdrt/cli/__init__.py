"""The `mdrt` command. Each subcommand imports what it needs when it runs."""

from __future__ import annotations

import signal
import traceback
from typing import Any, NoReturn

import click

from .. import __version__
from ..runtime.errors import MdrtError
from .debug import debug_option, debugging, surprise
from .lazy import Lazy, LazyGroup

COMMANDS = {
    "bench": Lazy("mdrt.cli.bench", "bench_command", "Measure speed, memory, parity and accuracy."),
    "build": Lazy("mdrt.cli.build", "build_command", "Build TensorRT engines of a bundle."),
    "eval": Lazy(
        "mdrt.cli.eval",
        "eval_command",
        "Measure accuracy on a data set, as the paper does.",
        "bench",
    ),
    "export": Lazy(
        "mdrt.cli.export",
        "export_command",
        "Convert a diffusers pipeline to a bundle of ONNX graphs.",
        "export",
    ),
    "segment": Lazy("mdrt.cli.segment", "segment_command", "Segment pictures."),
}


class _Terminated(SystemExit):
    """SIGTERM, as an exception: what is half-written is removed on the way out, as by Ctrl-C."""


def _terminate(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the removal
    raise _Terminated(128 + number)  # the status of a process that the signal ended


class _Commands(LazyGroup):
    """One line instead of a traceback for a user's mistake."""

    def invoke(self, context: click.Context) -> Any:
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(context)
        except _Terminated:
            click.echo("Error: terminated", err=True)
            raise
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own; and it ends quietly where who reads has read enough
        except Exception as error:
            if debugging():
                traceback.print_exc()
            raise click.ClickException(_line(error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)


def _line(error: Exception) -> str:
    if isinstance(error, MdrtError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return surprise(error)


@click.group(cls=_Commands, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mdrt")
@debug_option
def main() -> None:
    """Segment any picture into classes you name, with a frozen Stable Diffusion model.

    \b
    mdrt segment photo.jpg --classes "sky, grass, traffic light"
    mdrt segment photo.jpg --unsupervised
    mdrt export runwayml/stable-diffusion-v1-5 -o sd15
    """
