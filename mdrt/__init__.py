"""mdrt: MaskDiffusion segmentation with a frozen Stable Diffusion model, without PyTorch.

import mdrt

segmenter = mdrt.Segmenter()
result = segmenter("beach.jpg", ["sky", "sand", ("water", "sea")])
result.labels, result.classes, result.confidence
"""

from .runtime.errors import (
    BundleError,
    DeviceMemoryError,
    EngineError,
    ImageError,
    MdrtError,
    OutputError,
    PromptError,
    ProviderError,
)
from .runtime.images import read_image
from .runtime.segmenter import Options, Segmentation, Segmenter

__all__ = [
    "BundleError",
    "DeviceMemoryError",
    "EngineError",
    "ImageError",
    "MdrtError",
    "Options",
    "OutputError",
    "PromptError",
    "ProviderError",
    "Segmentation",
    "Segmenter",
    "read_image",
]
