"""What a vision transformer's graph gives out and takes, whichever way it comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from ....runtime.bundle.contract import AttentionOutput, FeatureOutput
from ....runtime.errors import ExportError
from ...options import ExportOptions

NETWORK: Final = "vit.onnx"

IMAGENET: Final = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of RGB in [0, 1], as DINOv2 takes pictures."""

OF_DINO: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"ncut": {"alpha": 5.0, "tau": 0.7, "given": "kway", "scales": True, "mirror": True}}
)
"""How DINOv2's features are cut best, of photographs (docs/notes/heads.md)."""

_OF_UNETS: Final = ("feature_strides", "attention_strides", "self_attention_strides", "vae")


@dataclass(frozen=True)
class Selection:
    """Features at the stride of a patch, and of CLIP maps in the space of its words."""

    features: tuple[FeatureOutput, ...]
    aligned: tuple[FeatureOutput, ...] = ()
    attention: tuple[AttentionOutput, ...] = ()
    self_attention: tuple[AttentionOutput, ...] = ()
    encoder: tuple[FeatureOutput, ...] = ()
    network: str = NETWORK


def check_options(options: ExportOptions) -> None:
    """See that nothing was asked for that a vision transformer does not have.

    Raises:
        ExportError: it was.
    """
    for field in fields(options):
        if field.name in _OF_UNETS and getattr(options, field.name) != field.default:
            raise ExportError(
                f"{field.name.replace('_', ' ')} {getattr(options, field.name)} is of diffusion "
                "models; a vision transformer gives out its patches, so leave it out"
            )
