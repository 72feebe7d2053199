"""What runs inside Triton's python backend: requests in, labels out.

A request has a picture's file (`image`) and either names (`classes`: with commas between, or a JSON
list in which a list is one class with its synonyms) or how many segments without (`segments`,
"auto" or a number); with neither, the names that the repository was written with. `settings` is a
JSON object: the head and its settings. It gets the labels as a palette PNG, the overlay as a PNG if
it asks for it, and the record.
"""

from __future__ import annotations

import importlib
import io
import json
import traceback
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ..errors import EmbeddedModelWarning, MdrtError, PromptError, UnknownNameWarning
from ..look.prompts import ClassName, parse_classes
from ..segmentation import Segmentation
from ..segmenter import Segmenter
from .repository import BUNDLE
from .session import TritonSession

NO_SETTINGS: Final = "{}"


class TritonPythonModel:
    """One instance; the server calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle.

        Raises:
            TritonModelException: it cannot be loaded.
        """
        # importable inside the server only
        self._utils: Any = importlib.import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        bundle = Path(args["model_repository"]) / args["model_version"] / BUNDLE
        for kind in (EmbeddedModelWarning, UnknownNameWarning):  # nobody reads them there
            warnings.simplefilter("ignore", kind)
        try:
            self._segmenter = self._open(bundle, told)
            self._classes = _names(told.get("classes", ""))
            self._settings = {
                "head": told.get("head"),
                **json.loads(told.get("settings", NO_SETTINGS)),
            }
            if self._settings["head"] is not None:
                self._segmenter.settle(**self._settings)
        except MdrtError as error:
            raise self._utils.TritonModelException(str(error)) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response a request, in order: what is wrong with one is its own."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Give back what the networks take."""
        self._segmenter.close()

    def _open(self, bundle: Path, told: dict[str, str]) -> Segmenter:
        if not json.loads(told["networks"]):
            threads = int(told["threads"]) if "threads" in told else None
            return Segmenter(bundle, provider=told.get("provider"), threads=threads)
        from ..bundle.loading import load_bundle

        manifest = load_bundle(bundle, verify=False).manifest
        rows = int(told["rows"])
        return Segmenter(
            bundle, open_graph=lambda path: TritonSession(path, manifest, self._utils, rows)
        )

    def _respond(self, request: Any) -> Any:
        utils = self._utils
        try:
            wanted = request.requested_output_names()
            rows = [self._answer(row, wanted) for row in self._rows(request)]
        except MdrtError as error:
            failed = utils.TritonError(str(error), utils.TritonError.INVALID_ARG)
        except Exception as error:  # one request's surprise must not cost the others
            traceback.print_exc()  # to the server's log
            failed = utils.TritonError(f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            tensors = [
                utils.Tensor(name, np.array([[row[name]] for row in rows], dtype=np.object_))
                for name in rows[0]
            ]
            return utils.InferenceResponse(output_tensors=tensors)
        return utils.InferenceResponse(error=failed)

    def _rows(self, request: Any) -> list[dict[str, bytes]]:
        """What is given of each picture of a request."""
        given = {}
        for name in ("image", "classes", "segments", "settings"):
            tensor = self._utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                given[name] = tensor.as_numpy().reshape(-1).tolist()
        return [
            {name: values[row] for name, values in given.items()}
            for row in range(len(given["image"]))
        ]

    def _answer(self, row: dict[str, bytes], wanted: Sequence[str]) -> dict[str, bytes]:
        """The outputs that are wanted of one picture.

        Raises:
            MdrtError: the picture or what is asked of it is wrong.
        """
        result = self._segmented(row)
        made: dict[str, bytes] = {}
        if "labels" in wanted:
            made["labels"] = _png(result.label_image())
        if "overlay" in wanted:
            made["overlay"] = _png(result.overlay())
        if "record" in wanted:
            made["record"] = json.dumps(result.record(), ensure_ascii=False).encode()
        return made

    def _segmented(self, row: dict[str, bytes]) -> Segmentation:
        words, count = _text(row, "classes"), _text(row, "segments")
        settings = {**self._settings, **_object(_text(row, "settings"))}
        if count:
            segments = "auto" if count == "auto" else int(count) if count.isdecimal() else count
            return self._segmenter(row["image"], segments=segments, **settings)  # type: ignore[arg-type]
        names = _names(words) or self._classes or list(self._segmenter.manifest.classes)
        if not names:
            raise MdrtError('no names; give classes, as in "sky, grass", or segments "auto"')
        return self._segmenter(row["image"], names, **settings)


def _text(row: dict[str, bytes], name: str) -> str:
    try:
        return row.get(name, b"").decode()
    except UnicodeDecodeError:
        raise MdrtError(f"{name} is no UTF-8") from None


def _names(text: str) -> list[ClassName]:
    """Names with commas between, or a JSON list in which a list of names is one class."""
    if not text.lstrip().startswith("["):
        return list(parse_classes(text)) if text else []
    try:
        found = json.loads(text)
    except ValueError as error:
        raise PromptError(f"classes is no JSON list ({error})") from None
    for name in found:
        names = name if isinstance(name, list) else [name]
        if not names or not all(isinstance(one, str) for one in names):
            raise PromptError(f"classes holds {name!r}, expected a name or a list of names")
    return [tuple(name) if isinstance(name, list) else name for name in found]


def _object(text: str) -> dict[str, Any]:
    """What a request sets."""
    try:
        found = json.loads(text or NO_SETTINGS)
    except ValueError as error:
        raise MdrtError(f"settings is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise MdrtError('settings is no JSON object; expected one, as in {"refine": "guided"}')
    unknown = found.keys() & {"scores", "max_size", "progress", "image", "classes", "segments"}
    if unknown:
        raise MdrtError(f"settings holds {min(unknown)}, which is no setting of a head")
    return found


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()
