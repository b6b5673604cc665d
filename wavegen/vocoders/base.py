"""The contract of a vocoder: mel spectrogram in, sound out."""

import math
import secrets
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.model import Model
from wavegen.vocoders.pieces import Draw

__all__ = ["STEP", "Vocoder", "scalars"]

STEP = 2 / 65536  # of a 16-bit recording, in [-1, 1]


def scalars(nats: Float[Tensor, ""]) -> dict[str, Tensor]:
    """A loss of so many nats a sample over x in [-1, 1], with what is logged of it; bits are per 16-bit sample."""
    return {"loss": nats, "nats": nats.detach(), "bits": (nats.detach() - math.log(STEP)) / math.log(2)}


class Vocoder(Model):
    """Turns mels of one convention into sound; the convention travels in the checkpoint."""

    mel: MelSpec
    style: int  # numbers in a style vector, 0 for none
    temperature: float  # to draw at when none is asked for

    @abstractmethod
    def pieces(
        self,
        mels: Iterable[Float[Tensor, "B M _F"]],
        style: Float[Tensor, "B D"] | None,
        draw: Draw,
        *,
        threads: int = 1,
    ) -> Iterator[Float[Tensor, "B _T"]]:
        """Sound in chunks for mels in pieces, the same chunks however the mels were cut; every item as if alone."""

    def synthesize(
        self,
        mel: Float[Tensor, "B M F"],
        style: Float[Tensor, "B D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Sound in [-1, 1] of exactly `F * mel.hop` samples; the same seed gives the same samples.

        At temperature 1 the model draws what it learned, below 1 something calmer; None stands for what suits it.
        `threads` processor cores share the work, which changes no sample. `progress` is called with the number of
        samples made since its last call.

        Raises:
            WavegenError: a mel or style of the wrong shape, NaN, a temperature below 0, or no thread.
        """
        self.check_input(mel, style)
        if threads < 1:
            raise WavegenError(f"got {threads} threads, expected at least 1")
        made = []
        plain = mel.detach().cpu().float()
        for piece in self.pieces([plain], style, self.draw(seed, temperature), threads=threads):
            made.append(piece)
            if progress is not None:
                progress(piece.numel())
        return torch.cat(made, dim=1)

    def stream(
        self,
        mels: Iterable[Float[Tensor, "M _F"]],
        style: Float[Tensor, " D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> Iterator[Float[Tensor, " _T"]]:
        """Sound in pieces for mel in pieces, as soon as the frames that it depends on are there.

        The pieces joined equal `synthesize` of the mels joined.
        """
        draw = self.draw(seed, temperature)
        one_style = None if style is None else style.unsqueeze(0)

        def batched() -> Iterator[Tensor]:
            for mel in mels:
                self.check_input(mel.unsqueeze(0), one_style)
                yield mel.detach().cpu().float().unsqueeze(0)

        return (piece[0] for piece in self.pieces(batched(), one_style, draw))

    def draw(self, seed: int | None, temperature: float | None) -> Draw:
        """A draw with the seed given, or with one that differs from call to call."""
        temperature = self.temperature if temperature is None else temperature
        if not (seed is None or 0 <= seed < 1 << 63):
            raise WavegenError(f"got the seed {seed}, expected 0 to 2^63 - 1; take a smaller one")
        if not 0 <= temperature < math.inf:
            raise WavegenError(f"got a temperature of {temperature}, expected 0 or more; 1 draws as the model learned")
        return Draw(secrets.randbits(31) if seed is None else seed, temperature)

    def check_mel(self, spec: MelSpec) -> None:
        """Refuse a mel of another convention than the vocoder's, naming both."""
        if spec != self.mel:
            raise WavegenError(
                f"got a mel of the convention {spec}, expected {self.mel}; extract it again with the vocoder's `mel`"
            )

    def check_input(self, mel: Float[Tensor, "B M F"], style: Float[Tensor, "B D"] | None) -> None:
        """Refuse a mel or a style that cannot be the vocoder's, saying what is wrong with it."""
        self.mel.check(mel)
        if mel.ndim != 3:
            raise WavegenError(
                f"got a mel of shape {tuple(mel.shape)}, expected (batch, bins, frames); add a batch axis"
            )
        if style is not None and not style.isfinite().all():
            raise WavegenError("got a style with NaN or infinite values, expected finite ones; compute it again")
        self.check_style(style, len(mel))

    def check_style(self, style: Float[Tensor, "B D"] | None, batch: int) -> None:
        """Refuse styles of another size than the vocoder's, or not one for each item."""
        given = (batch, 0) if style is None else tuple(style.shape)
        if given != (batch, self.style):
            raise WavegenError(
                f"got a style of shape {given}, expected {(batch, self.style)}; the vocoder was trained with styles "
                f"of {self.style} numbers"
            )
