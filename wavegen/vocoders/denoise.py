"""What a vocoder says when there is nothing to say, subtracted from all that it says."""

import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from wavegen.errors import WavegenError
from wavegen.vocoders.base import Vocoder

__all__ = ["Denoiser"]

SIZE, HOP = 1024, 256  # samples of a frame and between frames
LEAD = SIZE - HOP  # what a frame shares with those before it
STEP = 8 * HOP  # samples finished at once, whatever the pieces: so a stream does the arithmetic of an offline run
SILENCE = 0.5  # s of each draw
DRAWS = 4  # takes of silence, as one may click


class Denoiser:
    """Takes the steady hum and hiss of a vocoder out of its sound, by spectral subtraction.

    The bias of the vocoder is the mean magnitude spectrum of what it makes of a silent mel, at the `temperature` and in
    the `style` it is used with. `strength` times it is subtracted from the magnitudes of a sound, which stop at zero;
    phases stay. 0 changes nothing, 1 subtracts what was found.

    Raises:
        WavegenError: a strength that is negative or not finite; as the vocoder's `synthesize`.

    Source: Boll (1979), "Suppression of acoustic noise in speech using spectral subtraction"; for WaveGlow, its
    authors' code (2018).
    """

    def __init__(
        self,
        vocoder: Vocoder,
        strength: float,
        *,
        style: Float[Tensor, " D"] | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= strength < math.inf:
            raise WavegenError(
                f"got a denoising strength of {strength}, expected 0 or more; 0 is off, 1 takes all that silence has"
            )
        self.strength = strength
        self.window = torch.hann_window(SIZE).sqrt()  # applied twice, in analysis and in synthesis
        self.bias = torch.zeros(SIZE // 2 + 1)
        if strength:
            takes = _silence(vocoder, style=style, temperature=temperature, seed=seed)
            self.bias = torch.cat([self._spectra(take).abs() for take in takes]).mean(0)

    def __call__(self, wav: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The sounds without the bias, of the same length, in [-1, 1].

        Raises:
            WavegenError: not (B, T), NaN or infinite.
        """
        if wav.ndim != 2 or not len(wav):
            raise WavegenError(f"got sounds of shape {tuple(wav.shape)}, expected (batch, samples); add a batch axis")
        return torch.stack([torch.cat([item[:0], *(piece.to(wav) for piece in self.stream([item]))]) for item in wav])

    def stream(self, pieces: Iterable[Float[Tensor, " _T"]]) -> Iterator[Float[Tensor, " _T"]]:
        """One sound in pieces, some 0.1 s after it comes; joined they equal the sound denoised whole, bit for bit.

        Raises:
            WavegenError: as for the whole sound.
        """
        pieces = map(_checked, pieces)
        if not self.strength:
            yield from pieces
            return
        held = tail = torch.zeros(LEAD)  # what is yet to be analysed; what was made and is not finished
        given, made = 0, -LEAD  # samples; the first LEAD of them lie before the sound
        for piece in itertools.chain(pieces, [None]):
            given += 0 if piece is None else len(piece)
            held = torch.cat([held, torch.zeros(LEAD + STEP) if piece is None else piece])
            while len(held) >= STEP + LEAD:
                clean = self._clean(held[: STEP + LEAD])
                clean[:LEAD] += tail
                kept = clean[:STEP][max(-made, 0) : given - made].clamp(-1, 1)
                held, tail, made = held[STEP:], clean[STEP:], made + STEP
                if len(kept):
                    yield kept

    def _spectra(self, sound: Float[Tensor, " T"]) -> Complex[Tensor, "F N"]:
        return torch.fft.rfft(sound.unfold(0, SIZE, HOP) * self.window)

    def _clean(self, sound: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """The overlapping frames of one step, added; the windows of all four on a sample add up to 2."""
        spectra = self._spectra(sound)
        gain = (1 - self.strength * self.bias / spectra.abs().clamp(min=1e-20)).clamp(min=0)
        frames = torch.fft.irfft(spectra * gain) * self.window / 2
        return functional.fold(frames.T[None], (1, len(sound)), (1, SIZE), stride=(1, HOP)).flatten()


@torch.no_grad()
def _silence(
    vocoder: Vocoder, *, style: Float[Tensor, " D"] | None, temperature: float | None, seed: int
) -> list[Float[Tensor, " T"]]:
    """Takes of what the vocoder says for the mel of no sound."""
    spec = vocoder.mel
    samples = max(round(SILENCE * spec.rate), SIZE + spec.hop, spec.n_fft)
    mel = spec(torch.zeros(1, samples, device=next((p.device for p in vocoder.parameters()), None)))
    styles = None if style is None else style.unsqueeze(0)
    draws = tqdm(range(seed, seed + DRAWS), desc="silence", delay=1, leave=False, disable=None)
    takes = (vocoder.synthesize(mel, styles, seed=draw, temperature=temperature) for draw in draws)
    return [take[0].cpu().float() for take in takes]


def _checked(sound: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    if sound.ndim != 1:
        raise WavegenError(f"got a piece of shape {tuple(sound.shape)}, expected one axis of samples; index the batch")
    if not sound.isfinite().all():
        raise WavegenError("got a sound with NaN or infinity, expected samples in [-1, 1]; synthesize it again")
    return sound.detach().cpu().float()
