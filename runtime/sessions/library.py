"""Which library builds the engines: TensorRT or TensorRT-RTX, two modules of one interface."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from ..bundle.plan import LIBRARIES, installed_version
from ..errors import EngineError


@dataclass(frozen=True)
class Library:
    """A library that is loaded: its name, its version and its Python module."""

    name: str
    version: str
    module: Any


def open_library(name: str | None = None) -> Library:
    """Import a library.

    Args:
        name: a key of `LIBRARIES`; None takes the first of them that is installed.

    Raises:
        EngineError: it is not installed, or cannot be loaded.
    """
    chosen = name or next(filter(installed_version, LIBRARIES), None)
    version = chosen and installed_version(chosen)
    if chosen is None or version is None:
        missing = f"{name} is not" if name else f"neither {' nor '.join(LIBRARIES)} is"
        raise EngineError(
            f"{missing} installed; run `pip install {name or 'tensorrt-rtx'}` "
            "(tensorrt-rtx builds without a GPU)"
        )
    try:
        module = importlib.import_module(LIBRARIES[chosen])
    except (ImportError, OSError) as error:
        raise EngineError(
            f"{chosen} {version} is installed but cannot be loaded: {error}; "
            f"run `pip install --force-reinstall {chosen}`"
        ) from error
    return Library(chosen, version, module)
