"""What comes from the hub, or from its cache: pipelines, VAEs, CLIP's vocabulary. Never code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import diffusers
import huggingface_hub
from huggingface_hub import errors

from ..runtime.errors import ExportError
from .pickles import PICKLES
from .quiet import quiet
from .refusal import one_line

CLIP: Final = "openai/clip-vit-large-patch14"
"""Whose vocabulary every Stable Diffusion model has."""

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (  # a kind before those it is one of
    (
        errors.GatedRepoError,
        "is gated: accept its terms on its page, then log in with `hf auth login`",
    ),
    (errors.RevisionNotFoundError, "has no such revision; check --revision"),
    (
        errors.RepositoryNotFoundError,
        "is not on the hub, or private; check its name, or log in with `hf auth login`",
    ),
)


def is_hub_id(model: object) -> bool:
    """Whether `model` may be a hub's, as `owner/name`; a folder of this name goes before."""
    return (
        isinstance(model, str)
        and _HUB_ID.fullmatch(model) is not None
        and not Path(model).exists()
        and Path(model).suffix.lower() not in {".safetensors", *PICKLES}
    )


def fetch_pipeline(model_id: str, variant: str | None, revision: str | None) -> Path:
    """A pipeline's directory in the hub's cache, its weights as safetensors.

    Raises:
        ExportError: it is not there, gated, without safetensors, or the hub cannot be reached.
    """
    return _fetched(
        model_id,
        lambda: diffusers.DiffusionPipeline.download(
            model_id,
            variant=variant,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            safety_checker=None,
            feature_extractor=None,
        ),
    )


def fetch_files(model_id: str, *patterns: str, revision: str | None = None) -> Path:
    """The directory in the hub's cache with those files of a model.

    Raises:
        ExportError: as `fetch_pipeline`.
    """
    return _fetched(
        model_id,
        lambda: huggingface_hub.snapshot_download(
            model_id, revision=revision, allow_patterns=list(patterns)
        ),
    )


def _fetched(model_id: str, fetch: Callable[[], str]) -> Path:
    try:
        with quiet():
            return Path(fetch())
    except Exception as error:  # the hub raises from httpx, requests and itself
        causes = list(_causes(error))
        for cause in causes:
            for kind, reason in _REASONS:
                if isinstance(cause, kind):
                    raise ExportError(f"{model_id} {reason}") from error
        raise ExportError(
            f"{model_id} is neither a directory here nor could it be fetched from the hub "
            f"({type(causes[-1]).__name__}: {one_line(causes[-1])}); check the network or give a "
            "directory"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those it was raised for, the first last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
