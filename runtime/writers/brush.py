"""Label Studio's brush strokes: the `rle-pack` of thi.ng, of an RGBA picture of 0 and 255.

A header of 53 bits (bytes of the picture in 32; word size less one in 5; four run widths less one
in 4 each), then for each run one bit that it is one, 2 bits for which of the widths, the length
less one in so many bits, and the value in 8. Every pixel is four bytes, so the runs of the RGBA
picture are four times those of the mask: no RGBA picture is made.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .runs import Ints, Runs

_WIDTHS: Final = np.array([3, 4, 8, 16])
_LONGEST: Final = 1 << 16
_HEADER: Final = 53  # bits


def brush_rle(runs: Runs) -> NDArray[np.uint8]:
    """The packed bytes of one class, whose runs go along the rows."""
    lengths = 4 * runs.counts()
    values = np.arange(len(lengths)) % 2 * 255
    codes, bits = _codes(*_cut(lengths, values))
    header = 4 * runs.total << 21 | 7 << 16 | 2 << 12 | 3 << 8 | 7 << 4 | 15
    head = [header >> 27, header & (1 << 27) - 1]  # of 26 and 27 bits, which a window holds
    return _packed(np.concatenate((head, codes)), np.concatenate(([_HEADER - 27, 27], bits)))


def _cut(lengths: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Runs of which none is too long, and none empty."""
    pieces = -(-lengths // _LONGEST)
    cut = np.full(int(pieces.sum()), _LONGEST)
    some = pieces > 0
    cut[np.cumsum(pieces)[some] - 1] = (lengths - (pieces - 1) * _LONGEST)[some]
    return cut, np.repeat(values, pieces)


def _codes(lengths: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Each run as a number, and of how many bits that is."""
    which = np.searchsorted(1 << _WIDTHS, lengths)
    widths = _WIDTHS[which]
    return ((4 | which) << widths | lengths - 1) << 8 | values, widths + 11


def _packed(codes: Ints, bits: Ints) -> NDArray[np.uint8]:
    """Numbers of up to 33 bits one behind another, the highest bit first; zeros fill the last byte.

    Each is laid into a window of five bytes at the byte that it begins in. Windows overlap, but no
    bit is set twice, so that sums are unions.
    """
    ends = np.cumsum(bits)
    first, offset = np.divmod(ends - bits, 8)
    window = codes << (40 - offset - bits)
    size = int(-(-ends[-1] // 8))
    packed = np.zeros(size + 4)
    for byte in range(5):
        part = window >> (32 - 8 * byte) & 255
        packed += np.bincount(first + byte, part, size + 4)
    return packed[:size].astype(np.uint8)
