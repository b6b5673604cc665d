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
        return self._add(self.window.square().expand(1, self.count, -1)).clamp(min=1e-3)

    def _add(self, pieces: Float[Tensor, "B F W"]) -> Float[Tensor, "B L"]:
        size, hop = self.spec.n_fft, self.spec.hop
        if size % hop:
            return functional.fold(pieces.mT, (1, self.length), (1, size), stride=(1, hop)).flatten(1)
        added = pieces.new_zeros(len(pieces), self.length // hop, hop)
        for part, piece in enumerate(pieces.unflatten(2, (-1, hop)).unbind(2)):
            added[:, part : part + self.count] += piece
        return added.flatten(1)

    def analyse(self, padded: Float[Tensor, "B L"]) -> Complex[Tensor, "B F N"]:
        return torch.fft.rfft(padded.unfold(-1, self.spec.n_fft, self.spec.hop) * self.window)

    def synthesise(self, spectrum: Complex[Tensor, "B F N"]) -> Float[Tensor, "B L"]:
        return self._add(torch.fft.irfft(spectrum) * self.window) / self.weight

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
    frames, bands = Frames(spec, mel.shape[-1]), Bands(mel, spec)
    flat = bands.seen.float().expand(len(mel), frames.count, -1)  # nothing where the bands say nothing
    target = bands.fitted(flat, updates=100)
    phase = torch.rand(target.shape[:0:-1], generator=torch.Generator().manual_seed(seed)).T * 2 * math.pi
    start = torch.polar(target, phase.expand_as(target))
    return frames.cut(
        project(start, lambda magnitude: target / magnitude, frames, iterations=iterations, momentum=0.99)
    )


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
    frames, bands = Frames(spec, mel.shape[-1]), Bands(mel, spec)
    spectrum = frames.analyse(frames.pad(wav))
    magnitude = spectrum.abs().clamp(min=1e-7)
    start = bands.fitted(magnitude, updates=10) / magnitude * spectrum
    return frames.cut(project(start, bands.gain, frames, iterations=iterations - 1, momentum=0.9))


def project(
    spectrum: Complex[Tensor, "B F N"],
    gain: Callable[[Float[Tensor, "B F N"]], Float[Tensor, "B F N"]],
    frames: Frames,
    *,
    iterations: int,
    momentum: float,
) -> Float[Tensor, "B L"]:
    """Alternate between spectra of sounds and spectra times the `gain` for their magnitude; ends with a sound."""
    before = torch.zeros_like(spectrum)
    for step in tqdm(range(iterations), desc="Griffin-Lim", delay=1, leave=False, disable=None):
        now = frames.analyse(frames.synthesise(spectrum))
        ahead = now + momentum * (now - before) if step else now
        spectrum, before = gain(ahead.abs().clamp_(min=1e-7)) * ahead, now
    return frames.synthesise(spectrum)


class Bands:
    """The bands of a mel, as gains that bring a magnitude spectrum nearer to having them.

    Multiplicative updates for the Kullback-Leibler divergence (Lee and Seung, "Algorithms for non-negative matrix
    factorization", 2001), which stay positive and keep what the bands do not see: started from a flat spectrum they
    give smooth ones, which sound better than the sparse ones of least squares.
    """

    def __init__(self, mel: Float[Tensor, "B M F"], spec: MelSpec) -> None:
        self.power, self.filters = spec.power, spec.filters()
        self.bands = spec.amplitude(mel.float()).mT ** self.power
        total = self.filters.sum(1)
        self.seen = total > 0  # bins that lie in a band
        self.shares = (self.filters / total.clamp(min=1e-30).unsqueeze(1)).T
        self.beyond = (~self.seen).float()

    def gain(self, magnitude: Float[Tensor, "B F N"]) -> Float[Tensor, "B F N"]:
        """One update, as factors of the magnitudes."""
        ratio = self.bands / (magnitude**self.power @ self.filters).clamp_(min=1e-10)
        return (ratio @ self.shares).add_(self.beyond) ** (1 / self.power)

    def fitted(self, magnitude: Float[Tensor, "B F N"], *, updates: int) -> Float[Tensor, "B F N"]:
        """The spectrum after so many updates: nearest to `magnitude`, in shape, of those with the mel's bands."""
        for _ in tqdm(range(updates), desc="mel to spectrum", delay=1, leave=False, disable=None):
            magnitude = magnitude * self.gain(magnitude)
        return magnitude
