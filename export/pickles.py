"""Refuse pickles by name and by content, before any library sees them.

A pickle is a program: whoever reads one runs it. What mdrt reads of a model is JSON, text and
safetensors, which hold nothing but numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ..runtime.errors import ExportError

PICKLES: Final = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle"})
_HEADER: Final = 8  # bytes that count those of a safetensors file's JSON, which follows
_ZIP: Final = b"PK\x03\x04"  # what torch.save writes since 1.6
_PROTOCOL: Final = 0x80  # the first byte of a pickle of protocol 2 and up
_PLAIN: Final = ("*model.safetensors", "*model.safetensors.index.json")


def refuse_pickle(path: Path) -> None:
    """Let a safetensors file pass.

    Raises:
        ExportError: its name or its content is a pickle's, it is no safetensors file, or it
            cannot be read.
    """
    if path.suffix.lower() in PICKLES:
        raise _refusal(path, f"as its name says ({path.suffix})")
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER + 1)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    if head[_HEADER:] == b"{":
        return
    if head.startswith(_ZIP) or (len(head) > 1 and head[0] == _PROTOCOL and head[1] <= 5):
        raise _refusal(path, "whatever its name says")
    raise ExportError(f"{path} is no safetensors file; it is damaged, or of another kind")


def weights_variant(folder: Path, variant: str | None) -> str | None:
    """Which variant of a component's weights to load: `variant` if one is asked for, the plain
    ones where there are any, else the first that is there, as `model.fp16.safetensors`.

    Raises:
        ExportError: the component has pickles only, or a pickle under another name, or lacks
            `variant`.
    """
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        refuse_pickle(file)
    indices = sorted(folder.glob("*model.safetensors.index*.json"))
    for index in indices:
        _check_index(index)
    if not files:
        for file in sorted(folder.glob("*")):
            if file.suffix.lower() in PICKLES:
                raise _refusal(file, f"as its name says ({file.suffix})")
    found = {file.name.split(".")[1].partition("-")[0] for file in folder.glob("*model.*.*")}
    variants = sorted(found - {"safetensors", "bin"})
    plain = any(any(folder.glob(name)) for name in _PLAIN)
    if variant is None:
        return None if plain or not variants else variants[0]
    if variant not in variants:
        there = ", ".join([*["plain ones"] * plain, *variants]) or "none"
        raise ExportError(f"{folder} has no {variant} weights, only {there}")
    return variant


def _check_index(index: Path) -> None:
    """Weights in several files: each must be a safetensors file beside the index."""
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        names = {Path(file).name for file in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{index} cannot be read: {type(error).__name__}: {error}") from error
    for name in sorted(files):
        if name not in names or not name.endswith(".safetensors"):
            raise ExportError(
                f"{index} names {name!r}, expected the names of .safetensors files beside it"
            )


def _refusal(path: Path, sign: str) -> ExportError:
    return ExportError(
        f"{path} is a pickle, {sign}: reading one may run any code, so mdrt never does; give the "
        "model's .safetensors, or convert it as docs/export.md says under Pickles"
    )
