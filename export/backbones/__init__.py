"""Families of models, one package or file each: what a model offers, and how its parts become
graphs. The rest of the exporter and the runtime name none of them."""

from __future__ import annotations

from pathlib import Path

from ...runtime.errors import ExportError
from ..components import open_pipeline
from ..options import ExportOptions
from .base import Backbone
from .mmdit import PART, MMDiT
from .unet import UNet
from .vit import OnnxViT, ViT, find_source


def open_backbone(model: str | Path, options: ExportOptions) -> Backbone:
    """Find a model and the family that it is of.

    Raises:
        ExportError: there is none, or it is of no family that can be exported.
    """
    if Path(model).suffix.lower() == ".onnx":
        _check_of_pipelines(model, options, revision=options.revision)
        return OnnxViT(Path(model), options)
    source = find_source(model, options.revision)
    if source is not None:
        _check_of_pipelines(model, options)
        return ViT(source, options)
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


def _check_of_pipelines(model: str | Path, options: ExportOptions, **others: object) -> None:
    """Refuse options of diffusers' pipelines alone."""
    given = {"vae": options.vae, "lora": options.loras, "config": options.config, **others}
    given |= {"tokenizer": options.tokenizer, "variant": options.variant}
    for name, value in given.items():
        if value:
            raise ExportError(
                f"{model} is a vision transformer, and --{name} is of Stable Diffusion's; "
                "leave it out"
            )


__all__ = ["Backbone", "open_backbone"]
