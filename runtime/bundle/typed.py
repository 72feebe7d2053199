"""JSON values into frozen dataclasses, naming the key that does not fit."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, TypeVar

from ..errors import BundleError

_T = TypeVar("_T")
_LONGEST = 120  # letters of a document in an error's line


@dataclass(frozen=True)
class Document:
    """What is read, and how to mend it: the two ends of every error's line."""

    name: str
    remedy: str

    def require(self, true: bool, key: str, found: object, expected: object) -> None:
        """Check one value.

        Raises:
            BundleError: `true` is false.
        """
        if not true:
            if isinstance(expected, tuple):
                expected = "one of " + ", ".join(expected)
            raise BundleError(
                f"{self.name} key {_short(key)} is {_short(repr(found))}, expected {expected}; "
                f"{self.remedy}"
            )

    def read_object(self, values: object) -> dict[str, Any]:
        """The document's outermost value.

        Raises:
            BundleError: it is no object.
        """
        if not isinstance(values, dict):
            raise BundleError(
                f"{self.name} is a {_kind(values)}, expected an object; {self.remedy}"
            )
        return values

    def build(self, cls: type[_T], values: object, where: str = "") -> _T:
        """Build a dataclass from a JSON object; `where` is the path of keys that led to it.

        Raises:
            BundleError: a key without a default is missing, or one is unknown or ill-typed.
        """
        if not isinstance(values, dict):
            raise BundleError(
                f"{self.name} key {_short(where)} is a {_kind(values)}, expected an object; "
                f"{self.remedy}"
            )
        assert is_dataclass(cls)
        hints = typing.get_type_hints(cls)
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        prefix = f"{where}." if where else ""
        if missing := sorted(needed - values.keys()):
            raise BundleError(
                f"{self.name} lacks the key {_short(prefix)}{missing[0]}; {self.remedy}"
            )
        if unknown := sorted(values.keys() - known):
            raise BundleError(
                f"{self.name} has the unknown key {_short(prefix + unknown[0])}; {self.remedy}"
            )
        return cls(
            **{name: self._convert(hints[name], values[name], prefix + name) for name in values}
        )

    def _convert(self, hint: Any, value: object, where: str) -> Any:
        """Check a JSON value against a field's type: scalars, tuples, mappings, dataclasses, and
        each of them or null."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is types.UnionType:  # of a type and None
            if value is None:
                return None
            return self._convert(arguments[0], value, where)
        if is_dataclass(hint):
            return self.build(typing.cast("type[Any]", hint), value, where)
        if origin is tuple and isinstance(value, list):
            return tuple(
                self._convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)
            )
        if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
            items = {
                key: self._convert(arguments[1], item, f"{where}.{key}")
                for key, item in value.items()
            }
            return types.MappingProxyType(items)
        if hint is float and type(value) in (int, float):
            with suppress(OverflowError):  # JSON's integers have no end
                return float(typing.cast("float", value))
        if hint in (bool, int, str) and type(value) is hint:
            return value
        if hint is object:  # a setting: whoever knows its declaration checks it
            if isinstance(value, list) and all(type(item) is int for item in value):
                return tuple(value)
            if type(value) in (bool, int, float, str):
                return value
        expected = hint.__name__ if isinstance(hint, type) else str(origin and origin.__name__)
        raise BundleError(
            f"{self.name} key {_short(where)} is a {_kind(value)}, expected {expected}; "
            f"{self.remedy}"
        )


def plain(values: object) -> Any:
    """A dataclass as plain JSON values: the inverse of `Document.build`."""
    if is_dataclass(values):
        return {field.name: plain(getattr(values, field.name)) for field in fields(values)}
    if isinstance(values, Mapping):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, tuple):
        return [plain(value) for value in values]
    return values


def _short(text: str) -> str:
    """Text of a document as a line can show it: what a stranger wrote may be long, or no text."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
