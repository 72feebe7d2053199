"""Families of models, one package or file each: what a model offers, and how its parts become
graphs. The rest of the exporter and the runtime name none of them."""

from __future__ import annotations

from pathlib import Path

from ..components import open_pipeline
from ..options import ExportOptions
from .base import Backbone
from .mmdit import PART, MMDiT
from .unet import UNet


def open_backbone(model: str | Path, options: ExportOptions) -> Backbone:
    """Find a model and the family that it is of.

    Raises:
        ExportError: there is none, or it is of no family that can be exported.
    """
    pipeline = open_pipeline(
        model,
        options.vae,
        tokenizer=options.tokenizer,
        config=options.config,
        loras=options.loras,
        variant=options.variant,
        revision=options.revision,
    )
    family = MMDiT if PART in pipeline.classes else UNet
    return family(pipeline, options)


__all__ = ["Backbone", "open_backbone"]
