"""Silence for the exporters' own chatter, so that only mdrt's progress is seen."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import diffusers
import transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings, prints and log lines of torch, diffusers and transformers inside."""
    with ExitStack() as undo:
        for library in (diffusers.utils.logging, transformers.utils.logging):
            undo.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity_error()
            if library.is_progress_bar_enabled():
                undo.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        undo.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        undo.enter_context(redirect_stdout(io.StringIO()))
        undo.enter_context(redirect_stderr(io.StringIO()))
        yield
