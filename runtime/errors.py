"""Errors that are the user's to fix: one line each, shown without a traceback.

Every message says which thing is wrong, what arrived, what was expected and
what to do about it, in words that are right in Python and in a shell.
"""

from __future__ import annotations

from collections.abc import Mapping


class MdrtError(Exception):
    """A mistake the user can fix. `str(error)` is one line.

    Attributes:
        remedy: arguments of the call that would mend it, by name; `...` stands for another value
            than was given. The command line spells them as its options.
    """

    remedy: Mapping[str, object] = {}

    def __init__(self, message: str, **remedy: object) -> None:
        super().__init__(" ".join(message.splitlines()))  # what a library says may have several
        if remedy:
            self.remedy = remedy


class BundleError(MdrtError):
    """A bundle is missing, damaged, or of a schema this version cannot read."""


class ImageError(MdrtError):
    """An image cannot be read, or has a shape or type that cannot be segmented."""


class PromptError(MdrtError):
    """Class names are missing, empty, duplicated, or cannot be tokenized."""


class ProviderError(MdrtError):
    """An execution provider is unknown, or not available on this machine."""


class DeviceMemoryError(MdrtError):
    """The memory of the device that computes does not suffice."""

    remedy: Mapping[str, object] = {"max_size": ...}


class OutputError(MdrtError):
    """A result cannot be written where it was asked for."""


class ExportError(MdrtError):
    """A model cannot be exported, or its exported graphs failed their proof."""


class DatasetError(MdrtError):
    """A data set is not where or what it should be, or one of its pictures cannot be read."""


class EngineError(MdrtError):
    """An engine cannot be built or run: its library is missing or refused, it is for another GPU,
    or an option is impossible."""


class MdrtWarning(UserWarning):
    """What a user should know of a result that is one all the same."""


class EmbeddedModelWarning(MdrtWarning):
    """The embedded model runs, which knows drawn scenes only."""


class UnknownNameWarning(MdrtWarning):
    """A model of a closed vocabulary is asked for a name that it never saw."""
