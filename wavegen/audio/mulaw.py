"""Mu-law companding (ITU-T G.711's curve): sound in [-1, 1] to classes, fine near zero, and back.

The codes are those of `torchaudio.functional.mu_law_encoding`, found by table instead of logarithm.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from wavegen.errors import WavegenError
from wavegen.kernels import mulaw as kernel

__all__ = ["decode", "edges", "encode", "levels"]


def encode(wav: Float[Tensor, "*shape"], classes: int = 256) -> Int64[Tensor, "*shape"]:
    """Codes 0 .. classes - 1; what lies outside [-1, 1] takes the first or the last (torchaudio's overflow there).

    Raises:
        WavegenError: NaN, or not 2 to 65536 classes.
    """
    tables = _tables(classes)
    samples = wav.detach().float().contiguous()
    codes = torch.empty(samples.shape, dtype=torch.int64, device=samples.device)
    if samples.is_cpu:
        numbers = kernel.encode(samples.numpy().reshape(-1), *tables, codes.numpy().reshape(-1))
    else:
        numbers = not samples.isnan().any()
        codes = torch.bucketize(samples, edges(classes)[1:-1].to(samples.device), right=True)
    if not numbers:
        raise WavegenError("got a wav with NaN samples, expected numbers in [-1, 1]; check the recording")
    return codes


def decode(codes: Integer[Tensor, "*shape"], classes: int = 256) -> Float32[Tensor, "*shape"]:
    """The level of each code, in [-1, 1].

    Raises:
        WavegenError: a code outside 0 .. classes - 1, or not 2 to 65536 classes.
    """
    table = levels(classes)
    indices = codes.long().contiguous()
    if indices.is_cpu:
        wav = torch.empty(indices.shape)
        known = kernel.decode(indices.numpy().reshape(-1), table.numpy(), wav.numpy().reshape(-1))
    else:
        known = not ((indices < 0) | (indices >= classes)).any()
        wav = table.to(indices.device)[indices.clamp(0, classes - 1)]
    if not known:
        raise WavegenError(f"got codes outside 0 to {classes - 1}; decode with the classes they were encoded with")
    return wav


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def levels(classes: int = 256) -> Float[Tensor, " classes"]:
    """The sample that each code stands for, ascending from -1 to 1."""
    _check(classes)
    return mu_law_decoding(torch.arange(classes), classes)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def edges(classes: int = 256) -> Float[Tensor, " edges"]:
    """The boundaries of the classes from -1 to 1: class k holds edges[k] <= x < edges[k + 1].

    `log p(x) = log P(class) - log(edges[k + 1] - edges[k])` turns a probability into a density.
    """
    return torch.cat([torch.tensor([-1.0]), _thresholds(classes), torch.tensor([1.0])])


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _thresholds(classes: int) -> Float[Tensor, " thresholds"]:
    """The smallest float32 of each code from 1 up, by bisection of torchaudio's own formula over all floats."""
    _check(classes)
    code = torch.arange(1, classes)
    low = torch.full_like(code, _order(-1.0))
    high = torch.full_like(code, _order(1.0))
    while (high - low > 1).any():
        middle = (low + high) // 2
        reached = mu_law_encoding(_float(middle), classes) >= code
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return _float(high)


@lru_cache(maxsize=8)
def _tables(classes: int) -> tuple[NDArray[np.float32], NDArray[np.int32], int]:
    """What the kernel looks up: thresholds, the first code of each cell, and the shift that makes cells small."""
    thresholds = _thresholds(classes).numpy()
    magnitude = np.float32(1) + np.float32(classes - 1) * np.abs(thresholds)  # as the kernel computes it, rounding too
    octaves = magnitude.view(np.int32) - np.float32(1).view(np.int32)  # 2^23 each
    cells = [np.where(thresholds < 0, ~(octaves >> bits), octaves >> bits) for bits in range(24)]
    shift = max(bits for bits, cell in enumerate(cells) if len(np.unique(cell)) == len(cell))
    half = ((np.float32(classes).view(np.int32) - np.float32(1).view(np.int32)) >> shift) + 1
    first = np.searchsorted(cells[shift], np.arange(-half, half)).astype(np.int32)
    return np.append(thresholds, np.float32(np.nan)), first, shift


def _order(value: float) -> int:
    """The place of a float32 among all of them, in ascending order; zero is 0."""
    bits = int(np.float32(abs(value)).view(np.int32))
    return bits if value >= 0 else -bits


def _float(order: Integer[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The float32 at each place."""
    return order.abs().int().view(torch.float32) * order.sign()


def _check(classes: int) -> None:
    if not 2 <= classes <= 65536:
        raise WavegenError(f"got {classes} mu-law classes, expected 2 to 65536; 256 is usual")
