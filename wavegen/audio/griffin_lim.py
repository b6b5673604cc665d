"""From a mel back to sound by projections, and the correction of a vocoder's sound by a few of them."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from wavegen.audio.mel import MelSpec

__all__ = ["agree", "griffin_lim"]


class Frames:
    """The short-time spectra of sounds of `count` frames: analysis, and its least-squares inverse.

    The frames lie in the padded sound:  |padding| hop | hop | ... | padding|
    """

    def __init__(self, spec: MelSpec, count: int) -> None:
        self.spec, self.count = spec, count
        self.length = (count - 1) * spec.hop + spec.n_fft
        left = (spec.n_fft - spec.win) // 2
        self.window = functional.pad(torch.hann_window(spec.win), (left, spec.n_fft - spec.win - left))

    @cached_property
    def weight(self) -> Float[Tensor, "1 L"]:
        """Sum of the squared windows over every sample."""
        squares = self.window.square()[None, :, None].expand(1, -1, self.count)
        return self._add(squares).clamp(min=1e-3)

    def _add(self, pieces: Float[Tensor, "B N F"]) -> Float[Tensor, "B L"]:
        size = (1, self.spec.n_fft)
        return functional.fold(pieces, (1, self.length), size, stride=(1, self.spec.hop)).flatten(1)

    def analyse(self, padded: Float[Tensor, "B L"]) -> Complex[Tensor, "B N F"]:
        return torch.fft.rfft(padded.unfold(-1, self.spec.n_fft, self.spec.hop) * self.window).mT

    def synthesise(self, spectrum: Complex[Tensor, "B N F"]) -> Float[Tensor, "B L"]:
        return self._add(torch.fft.irfft(spectrum, dim=1) * self.window[:, None]) / self.weight

    def pad(self, wav: Float[Tensor, "B T"]) -> Float[Tensor, "B L"]:
        return functional.pad(wav, (self.spec.padding, self.spec.padding), mode="reflect")[:, : self.length]

    def cut(self, padded: Float[Tensor, "B L"]) -> Float[Tensor, "B T"]:
        return padded[:, self.spec.padding : self.length - self.spec.padding]


@torch.no_grad()
def griffin_lim(
    mel: Float[Tensor, "B M F"], spec: MelSpec, *, iterations: int = 60, seed: int = 0
) -> Float[Tensor, "B T"]:
    """Sound for a mel by alternating projections; F * hop samples for centring "middle", (F - 1) * hop for "start".

    Every item of a batch starts from the same random phase, so a batch equals its items done one by one. Momentum
    0.99 as in Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013), algorithm 2.

    Raises:
        WavegenError: as `MelSpec.check`.
    """
    frames = Frames(spec, mel.shape[-1])
    flat = (spec.filters().sum(1) > 0).float()  # nothing where the bands say nothing
    flat = flat[:, None].expand(len(mel), -1, frames.count)
    target = with_bands(flat, spec.amplitude(mel.float()), spec, updates=100)
    phase = torch.rand(target.shape[1:], generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
    start = torch.polar(target, phase.expand_as(target))
    return frames.cut(project(start, lambda _: target, frames, iterations=iterations, momentum=0.99))


@torch.no_grad()
def agree(
    wav: Float[Tensor, "B T"], mel: Float[Tensor, "B M F"], spec: MelSpec, *, iterations: int = 8
) -> Float[Tensor, "B T"]:
    """A sound near `wav` whose mel is nearer to `mel`, for a convention of centring "middle".

    Griffin-Lim's projections started from a vocoder's sound, onto all the spectra that have the mel's bands rather
    than onto one of them: the sound keeps its phases and the fine structure of its spectra, and takes the level of
    every band from the mel.

    Raises:
        WavegenError: as `MelSpec.check`.
    """
    if wav.shape[-1] <= spec.padding:  # too short to have its edges reflected
        return wav
    frames, amplitude = Frames(spec, mel.shape[-1]), spec.amplitude(mel.float())
    spectrum = frames.analyse(frames.pad(wav))
    magnitude = spectrum.abs().clamp(min=1e-7)
    start = with_bands(magnitude, amplitude, spec, updates=10) * spectrum / magnitude

    def banded(magnitude: Float[Tensor, "B N F"]) -> Float[Tensor, "B N F"]:
        return with_bands(magnitude, amplitude, spec, updates=1)

    return frames.cut(project(start, banded, frames, iterations=iterations - 1, momentum=0.5))


def project(
    spectrum: Complex[Tensor, "B N F"],
    wanted: Callable[[Float[Tensor, "B N F"]], Float[Tensor, "B N F"]],
    frames: Frames,
    *,
    iterations: int,
    momentum: float,
) -> Float[Tensor, "B L"]:
    """Alternate between spectra of sounds and spectra of the magnitude `wanted` for theirs; ends with a sound."""
    before = torch.zeros_like(spectrum)
    for step in tqdm(range(iterations), desc="Griffin-Lim", delay=1, leave=False, disable=None):
        now = frames.analyse(frames.synthesise(spectrum))
        ahead = now + momentum * (now - before) if step else now
        magnitude = ahead.abs().clamp(min=1e-7)
        spectrum, before = wanted(magnitude) * ahead / magnitude, now
    return frames.synthesise(spectrum)


def with_bands(
    spectrum: Float[Tensor, "B N F"], amplitude: Float[Tensor, "B M F"], spec: MelSpec, *, updates: int
) -> Float[Tensor, "B N F"]:
    """The magnitude spectrum nearest to `spectrum`, in shape, whose mel bands are `amplitude`.

    Multiplicative updates for the Kullback-Leibler divergence (Lee and Seung, "Algorithms for non-negative matrix
    factorization", 2001), which stay positive and keep what the bands do not see: started from a flat spectrum they
    give smooth ones, which sound better than the sparse ones of least squares.
    """
    bands, spectrum = amplitude**spec.power, spectrum**spec.power
    filters = spec.filters()
    total = filters.sum(1, keepdim=True)
    for _ in tqdm(range(updates), desc="mel to spectrum", delay=1, leave=False, disable=None):
        ratio = bands / (filters.mT @ spectrum).clamp(min=1e-10)
        spectrum = torch.where(total > 0, spectrum * (filters @ ratio) / total, spectrum)
    return spectrum ** (1 / spec.power)
