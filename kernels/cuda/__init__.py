"""The kernels in CUDA: what the public functions of `mdrt.kernels` call for CuPy's arrays.

One operation a file: `NAME.cu` is the device code with its formula, `NAME.py` checks the arrays
and launches it. The NumPy code of the public function is the oracle.
"""

from .edge_labels import edge_labels
from .labels import MOST_LEVELS, labels
from .pixel_norms import pixel_norms
from .pooled_attention import pooled_attention

__all__ = ["MOST_LEVELS", "edge_labels", "labels", "pixel_norms", "pooled_attention"]
