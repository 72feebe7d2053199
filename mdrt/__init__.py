"""mdrt: MaskDiffusion segmentation with a frozen Stable Diffusion model, without PyTorch.

import mdrt

segmenter = mdrt.Segmenter()
result = segmenter("beach.jpg", ["sky", "sand", ("water", "sea")])
result.labels, result.classes, result.confidence
result.save("out/beach")
"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout that was not installed, the rooms stand beside this folder, not in it.
_checkout = Path(__file__).resolve().parents[1]
if not (Path(__file__).parent / "runtime").exists() and (_checkout / "runtime").is_dir():
    __path__.append(str(_checkout))

from .runtime.errors import (  # noqa: E402
    BundleError,
    DeviceMemoryError,
    EmbeddedModelWarning,
    EngineError,
    ImageError,
    MdrtError,
    MdrtWarning,
    OutputError,
    PromptError,
    ProviderError,
    UnknownNameWarning,
)
from .runtime.pictures.images import read_image  # noqa: E402
from .runtime.pipeline import pipeline  # noqa: E402
from .runtime.segmentation import Segmentation  # noqa: E402
from .runtime.segmenter import Look, Segmenter  # noqa: E402

__all__ = [
    "BundleError",
    "DeviceMemoryError",
    "EmbeddedModelWarning",
    "EngineError",
    "ImageError",
    "Look",
    "MdrtError",
    "MdrtWarning",
    "OutputError",
    "PromptError",
    "ProviderError",
    "Segmentation",
    "Segmenter",
    "UnknownNameWarning",
    "__version__",
    "pipeline",
    "read_image",
]
