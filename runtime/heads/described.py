"""A head and its settings as JSON, for machines and for pages made of it."""

from __future__ import annotations

from typing import Any

from ..bundle.contract import Manifest
from .base import Head
from .options import declared


def described(head: Head, manifest: Manifest) -> dict[str, Any]:
    """What a head is, what a bundle offers and recommends for it, and each of its settings."""
    recommended = manifest.recommended.get(head.name, {})
    return {
        "name": head.name,
        "kind": head.kind,
        "help": head.help,
        "good_for": head.good_for,
        "taps": list(head.taps),
        "offered": head.offered(manifest),
        "counts": head.counts,
        "settings": [
            {
                "name": entry.name,
                "type": entry.type,
                "range": entry.range,
                "choices": list(entry.choices),
                "default": entry.default,
                "recommended": recommended.get(entry.name),
                "help": entry.help,
            }
            for entry in declared(head.options)
        ],
    }
