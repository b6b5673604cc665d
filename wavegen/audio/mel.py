"""Mel spectrograms: the convention as a value, the transform and conversion."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from wavegen.errors import WavegenError

__all__ = ["MelSpec"]

FRAMES_AT_ONCE = 4096  # bounds the memory of a ten-minute recording

# What differs from Tacotron 2, whose convention the fields default to.
LOG10: dict[str, Any] = {"fmax": 7600.0, "log": "log10", "floor": 1e-10}
CONVENTIONS: dict[str, dict[str, Any]] = {
    "tacotron2": {},
    "hifigan": {"epsilon": 1e-9, "centring": "middle"},
    "r9y9": {**LOG10, "fmin": 125.0},
    "r9y9_v01": {**LOG10, "fmin": 125.0, "floor": 1e-4, "mean": (-4.0,) * 80, "std": (5.0,) * 80},  # (dB + 80) / 100
    "parallel_wavegan": {**LOG10, "fmin": 80.0},
    "parallel_wavegan_24k": {**LOG10, "fmin": 80.0, "rate": 24000, "n_fft": 2048, "hop": 300, "win": 1200},
    "vocos": {"rate": 24000, "bins": 100, "fmax": None, "scale": "htk", "norm": None, "floor": 1e-7},
}


@dataclass(frozen=True)
class MelSpec:
    """A mel convention: everything that must agree before two mels may be compared or a vocoder may read one.

    Equal conventions compare equal. `rate`, `fmin` and `fmax` are in Hz (`fmax=None` means the Nyquist frequency and
    is stored as such), `n_fft`, `hop` and `win` in samples. The window is a periodic Hann window.

    The spectrum is `(re^2 + im^2 + epsilon) ** (power / 2)`; its mel is clipped from below at `floor` before the
    logarithm; `mean` and `std`, one number per bin in the log domain, standardise it when given. `centring` says
    where frame f lies, the edges being padded by reflection:

        "start"    on sample f * hop              T // hop + 1 frames
        "middle"   on sample f * hop + hop / 2    T // hop frames      (HiFi-GAN's padding of (n_fft - hop) / 2)

    Raises:
        WavegenError: a field of the wrong type or out of range.
    """

    rate: int = 22050
    n_fft: int = 1024
    hop: int = 256
    win: int = 1024
    bins: int = 80
    fmin: float = 0.0
    fmax: float | None = 8000.0
    scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    power: Literal[1, 2] = 1
    epsilon: float = 0.0
    log: Literal["ln", "log10"] = "ln"
    floor: float = 1e-5
    centring: Literal["start", "middle"] = "start"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        try:  # JSON makes lists of tuples, people write 0 for 0.0; equal conventions must be equal and hash alike
            tidy: dict[str, Any] = {name: float(getattr(self, name)) for name in ("fmin", "epsilon", "floor")}
            tidy["fmax"] = self.rate / 2 if self.fmax is None else float(self.fmax)
            for name in ("mean", "std"):
                given = getattr(self, name)
                tidy[name] = None if given is None else tuple(map(float, given))
        except (TypeError, ValueError):
            raise self._refusal("numbers for rate, fmin, fmax, epsilon, floor, mean and std") from None
        for name, value in tidy.items():
            object.__setattr__(self, name, value)
        for expected, met in self._conditions(tidy["fmax"]):
            if not met:
                raise self._refusal(expected)

    def _conditions(self, fmax: float) -> Iterator[tuple[str, bool]]:
        sizes = (self.rate, self.n_fft, self.hop, self.win, self.bins)
        yield "positive integers for rate, n_fft, hop, win and bins", all(type(n) is int and n > 0 for n in sizes)
        fits = self.hop <= self.win <= self.n_fft <= 2**16 and self.n_fft % 2 == 0 and self.bins <= self.n_fft
        yield "hop <= win <= n_fft <= 65536, n_fft even, bins <= n_fft", fits
        yield f"0 <= fmin < fmax <= {self.rate / 2:g} Hz", 0 <= self.fmin < fmax <= self.rate / 2
        known = self.scale in ("slaney", "htk") and self.norm in ("slaney", None)
        yield "scale 'slaney' or 'htk', norm 'slaney' or None", known
        yield "power 1 or 2, log 'ln' or 'log10'", self.power in (1, 2) and self.log in ("ln", "log10")
        yield "floor > 0 and epsilon >= 0", 0 < self.floor < math.inf and 0 <= self.epsilon < math.inf
        middle = self.centring == "middle" and self.hop % 2 == 0
        yield "centring 'start', or 'middle' with an even hop", self.centring == "start" or middle
        mean, std = tuple(self.mean or ()), tuple(self.std or ())
        lengths = {len(mean), len(std)}
        yield (
            f"mean and std of {self.bins} values each, or neither",
            (lengths == {self.bins} or (self.mean is None and self.std is None)),
        )
        yield "finite mean, positive std", all(map(math.isfinite, mean + std)) and min(std, default=1.0) > 0

    def _refusal(self, expected: str) -> WavegenError:
        return WavegenError(f"got a mel convention of {self._changes()}; expected {expected}; correct the fields")

    @classmethod
    def named(cls, name: str) -> "MelSpec":
        """A published convention: "tacotron2" (WaveGlow, Glow-TTS), "hifigan", "r9y9", "parallel_wavegan", "vocos", ...

        Those of r9y9 and ParallelWaveGAN were standardised by their corpus; give `mean` and `std` with
        `dataclasses.replace` to say so.

        Raises:
            WavegenError: no such name; the message lists them.
        """
        if name not in CONVENTIONS:
            raise WavegenError(f"no mel convention {name!r}; choose one of {', '.join(CONVENTIONS)}")
        return cls(**CONVENTIONS[name])

    def __str__(self) -> str:
        for name in CONVENTIONS:
            if self == MelSpec.named(name):
                return f"{name} ({self.hash})"
        return f"tacotron2 but {self._changes()} ({self.hash})"

    def _changes(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r:.40}" for name in self._differences(MelSpec()))

    def _differences(self, other: "MelSpec") -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits, the same on every machine for equal conventions."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def padding(self) -> int:
        """Samples reflected at each end."""
        return self.n_fft // 2 if self.centring == "start" else (self.n_fft - self.hop) // 2

    def frames(self, samples: int) -> int:
        """Frames of a wav of so many samples."""
        return samples // self.hop + (self.centring == "start")

    def __call__(self, wav: Float[Tensor, "B T"]) -> Float[Tensor, "B M F"]:
        """The mel of a batch, in float32 (float64 for float64), differentiable, outside any autocast.

        Raises:
            WavegenError: not (B, T), empty, NaN or infinite, or too short for the padding.
        """
        if wav.ndim != 2 or wav.numel() == 0:
            raise WavegenError(f"got a wav of shape {tuple(wav.shape)}, expected (batch, samples) > 0; reshape it")
        shortest = max(self.padding + 1, self.hop)
        if wav.shape[-1] < shortest:
            raise WavegenError(f"got a wav of {wav.shape[-1]} samples, expected {shortest} or more; pad it or drop it")
        if not wav.isfinite().all():
            raise WavegenError("got a wav with NaN or infinity, expected samples in [-1, 1]; check the recording")
        with torch.autocast(wav.device.type, enabled=False):
            wav = wav if wav.dtype == torch.float64 else wav.float()
            padded = functional.pad(wav, (self.padding, self.padding), mode="reflect")
            frames = padded.unfold(-1, self.n_fft, self.hop)
            return torch.cat([self._log_mel(part) for part in frames.split(FRAMES_AT_ONCE, dim=1)], dim=-1)

    def _log_mel(self, frames: Float[Tensor, "B F N"]) -> Float[Tensor, "B M F"]:
        window, filters = _tables(self, frames.device, frames.dtype)
        spectrum = torch.fft.rfft(frames * window)
        if self.epsilon:
            spectrum = (spectrum.real.square() + spectrum.imag.square() + self.epsilon).sqrt()
        else:
            spectrum = spectrum.abs()  # unlike sqrt, its gradient at zero is zero
        mel = ((spectrum if self.power == 1 else spectrum.square()) @ filters).mT
        return self._from_natural(mel.clamp(min=self.floor).log())

    @property
    def _unit(self) -> float:
        return 1.0 if self.log == "ln" else math.log(10)

    def _from_natural(self, level: Tensor) -> Tensor:
        level = level.clamp(min=math.log(self.floor)) / self._unit
        if self.mean is None or self.std is None:
            return level
        return (level - level.new_tensor(self.mean)[:, None]) / level.new_tensor(self.std)[:, None]

    def _to_natural(self, mel: Tensor) -> Tensor:
        if self.mean is not None and self.std is not None:
            mel = mel * mel.new_tensor(self.std)[:, None] + mel.new_tensor(self.mean)[:, None]
        return mel * self._unit

    def check(self, mel: Float[Tensor, "..."]) -> None:
        """Refuse what cannot be a mel of this convention.

        Raises:
            WavegenError: wrong number of bins, transposed, empty, NaN or infinite.
        """
        shape = tuple(mel.shape)
        if mel.ndim < 2 or shape[-2] != self.bins:
            advice = "transpose the last two" if mel.ndim >= 2 and shape[-1] == self.bins else f"extract it as {self}"
            raise WavegenError(f"got a mel of shape {shape}, expected ({self.bins} bins, frames) last; {advice}")
        if mel.numel() == 0:
            raise WavegenError(f"got a mel of shape {shape}, expected at least one frame; check the recording")
        if not mel.isfinite().all():
            raise WavegenError("got a mel with NaN or infinite values, expected finite ones; extract it again")

    def filters(self) -> Float[Tensor, "N M"]:
        """The filterbank, from n_fft / 2 + 1 linear bins to mel bands."""
        return _tables(self, torch.device("cpu"), torch.float32)[1]

    def amplitude(self, mel: Float[Tensor, "*B M F"]) -> Float[Tensor, "*B M F"]:
        """Linear magnitude per band: standardisation, logarithm and power undone.

        Where `power` is 2 this is the root of the band's energy, not the sum of its magnitudes.

        Raises:
            WavegenError: as `check`.
        """
        self.check(mel)
        return torch.exp(self._to_natural(mel) / self.power)

    def convert(self, mel: Float[Tensor, "*B M F"], to: "MelSpec") -> Float[Tensor, "*B M F"]:
        """The same mel in another convention where that is exact: another logarithm, mean and std, or a higher floor.

        Raises:
            WavegenError: the two differ in anything else (filters, power, centring, a lower floor); as `check`.
        """
        self.check(mel)
        if self == to:
            return mel
        exact = {"log", "mean", "std", "floor" if to.floor > self.floor else ""}
        lost = [name for name in self._differences(to) if name not in exact]
        if lost:
            facts = ", ".join(f"{name} {getattr(self, name)!r} to {getattr(to, name)!r}" for name in lost)
            raise WavegenError(
                f"cannot convert a mel from {self} to {to} exactly ({facts}); extract it again from the recording"
            )
        return to._from_natural(self._to_natural(mel))


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # tensors born in inference mode could never meet a gradient again
def _tables(spec: MelSpec, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The window centred in n_fft samples, and the filters (n_fft / 2 + 1, bins)."""
    left = (spec.n_fft - spec.win) // 2
    window = functional.pad(torch.hann_window(spec.win, dtype=torch.float64), (left, spec.n_fft - spec.win - left))
    top = spec.rate / 2 if spec.fmax is None else spec.fmax
    filters = melscale_fbanks(spec.n_fft // 2 + 1, spec.fmin, top, spec.bins, spec.rate, spec.norm, spec.scale)
    return window.to(device, dtype), filters.to(device, dtype)
