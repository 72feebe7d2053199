"""Every CUDA kernel once, on small odd shapes: what compute-sanitizer watches."""

from __future__ import annotations

import cupy
import numpy as np

from .... import kernels
from ....kernels import Grid

SIZE = (61, 83)
LEVELS = ((7, 5, 9), (5, 11, 3), (3, 1, 1), (2, 8, 8))


def main() -> None:
    """Launch them all; a wrong access is the sanitizer's to see."""
    # Without a pool every array is an allocation of its own, with an end that can be overrun.
    cupy.cuda.set_allocator(None)
    random = np.random.default_rng(0)
    image = cupy.asarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    small = cupy.asarray(random.random((3, 9, 13), dtype=np.float32))
    grids = [Grid(cupy.asarray(random.standard_normal(s, dtype=np.float32))) for s in LEVELS]
    for classes in (1, 5, 300):  # labels of one byte and of two
        owner = np.arange(classes)
        for dtype in (np.float16, np.float32):
            logits = [
                cupy.asarray(random.standard_normal((2, classes, *grid)).astype(dtype))
                for grid in ((5, 9), (11, 3))
            ]
            maps = Grid(kernels.class_maps(logits, owner, classes))
        norms = kernels.pixel_norms(grids, SIZE)
        averages = kernels.prototypes(grids, maps, SIZE, "released", norms)
        scores = kernels.score_maps(grids, averages, "released")
        kernels.assign(scores, SIZE, norms)
        kernels.assign(scores, SIZE)
        fine = kernels.fine_scores(scores, grids, small.shape[1:])
        kernels.assign_along_edges(fine, kernels.Guide(image, small))
    cupy.cuda.Device().synchronize()


if __name__ == "__main__":
    main()
