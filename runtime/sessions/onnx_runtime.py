"""ONNX Runtime as it is installed: by exactly one of its packages, or a line that says what to run.

All of them write one folder, `onnxruntime`. Of two, pip keeps whichever came last and says nothing.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ..errors import ProviderError

_BRINGS: Final = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "gpu": "onnxruntime-gpu",
    "rtx": "onnxruntime",
    "openvino": "onnxruntime",
}
"""Extra of mdrt → the package of ONNX Runtime that it brings."""

_WANTED: Final = {"onnxruntime-gpu": "cuda", "onnxruntime-openvino": "openvino"}
"""Who installed one of these, beside another or broken, meant this extra."""

_WROTE_IT: Final = re.compile(rb"^onnxruntime/__init__\.py,", re.MULTILINE)


@cache
def onnx_runtime() -> Any:
    """The module `onnxruntime`.

    Raises:
        ProviderError: it is not installed or cannot be loaded, or several packages wrote it.
    """
    owners = _owners()
    extra = next((_WANTED[owner] for owner in owners if owner in _WANTED), "cpu")
    if len(owners) > 1:
        raise ProviderError(
            f"{' and '.join(owners)} have overwritten each other's files in one folder; "
            f"run {_command(extra, owners)}"
        )
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:  # without: a folder that an uninstall left behind
        raise ProviderError(
            f"ONNX Runtime is not installed; run {_command('cpu', owners)}, "
            "with '.[gpu]' for an NVIDIA GPU"
        )
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ProviderError(
            f"ONNX Runtime is installed but cannot be loaded ({reason}); "
            f"run {_command(extra, owners)}"
        ) from error


def install_command(extra: str) -> str:
    """What to run for an extra of mdrt, so that no other package of ONNX Runtime stays beside."""
    return _command(extra, [owner for owner in _owners() if owner != _BRINGS[extra]])


def _command(extra: str, remove: Sequence[str]) -> str:
    first = f"pip uninstall --yes {' '.join(remove)} && " if remove else ""
    return f"`{first}pip install '.[{extra}]'` in mdrt's own folder"


def _owners() -> list[str]:
    """The packages whose files lie in the folder that `import onnxruntime` would read."""
    found = find_spec("onnxruntime")
    if found is None or not found.submodule_search_locations:
        return []
    beside = Path(found.submodule_search_locations[0]).parent
    return sorted(
        info.name.partition("-")[0].replace("_", "-")
        for pattern in ("onnxruntime*.dist-info", "ort*.dist-info")  # ort-nightly and its kin
        for info in beside.glob(pattern)
        if (record := info / "RECORD").is_file() and _WROTE_IT.search(record.read_bytes())
    )
