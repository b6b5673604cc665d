"""Mu-law by table: a sample's code in two look-ups and one comparison, a code's sample in one look-up."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["decode", "encode"]

BLOCK = 4096  # samples whose cells stay in the fastest cache
ONE = np.float32(1).view(np.int32)


@njit(cache=True, nogil=True)
def encode(
    wav: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    first: NDArray[np.int32],
    shift: int,
    codes: NDArray[np.int64],
) -> bool:
    """Fill `codes` with the number of `thresholds` (ascending, then NaN) at or below each sample of `wav`.

    The leading bits of the floating-point number 1 + mu |x| are nearly its logarithm, so they number cells about
    equally wide on the mu-law scale, -1, -2, ... for negative samples. `first` has for each cell, the most negative
    first, the code at its low end; a cell holds at most one threshold. False, with `codes` unfinished, if a sample
    is NaN.
    """
    mu = np.float32(len(thresholds) - 1)
    middle = np.int32(len(first) // 2)
    bits = np.int32(shift)
    cells = np.empty(BLOCK, np.uint32)
    for start in range(0, len(wav), BLOCK):
        x = wav[start : start + BLOCK]
        out = codes[start : start + BLOCK]
        strange = np.int32(0)
        for t in range(len(x)):  # arithmetic alone, which the compiler turns into vectors; the look-ups it cannot
            strange += np.int32(np.isnan(x[t]))
            magnitude = np.float32(np.float32(1) + mu * min(abs(x[t]), np.float32(1)))
            cell = np.int32(np.int32(magnitude.view(np.int32) - ONE) >> bits)
            cells[t] = middle + (cell ^ -np.int32(x[t] < 0))
        if strange:
            return False
        for t in range(len(x)):
            code = first[cells[t]]
            out[t] = code + np.int32(x[t] >= thresholds[np.uint32(code)])
    return True


@njit(cache=True, nogil=True)
def decode(codes: NDArray[np.int64], levels: NDArray[np.float32], wav: NDArray[np.float32]) -> bool:
    """Fill `wav` with the level of each code; False if a code is not an index of `levels`."""
    classes = np.uint64(len(levels))
    known = True
    for t in range(len(codes)):
        code = np.uint64(codes[t])  # a negative one becomes huge
        known &= code < classes
        wav[t] = levels[code if code < classes else np.uint64(0)]
    return bool(known)
