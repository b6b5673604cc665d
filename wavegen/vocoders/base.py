"""The contract of a vocoder: mel spectrogram in, sound out."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator

from jaxtyping import Float
from torch import Tensor

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.model import Model

__all__ = ["Vocoder"]


class Vocoder(Model):
    """Turns mels of one convention into sound; the convention travels in the checkpoint."""

    mel: MelSpec
    style: int  # numbers in a style vector, 0 for none

    @abstractmethod
    def synthesize(
        self,
        mel: Float[Tensor, "B M F"],
        style: Float[Tensor, "B D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T"]:
        """Sound in [-1, 1] of exactly `F * mel.hop` samples; the same seed gives the same samples."""

    @abstractmethod
    def stream(
        self,
        mels: Iterable[Float[Tensor, "M F"]],
        style: Float[Tensor, " D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
    ) -> Iterator[Float[Tensor, " T"]]:
        """Sound in pieces for mel in pieces; the pieces joined equal `synthesize` of the mels joined."""

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
            raise WavegenError(f"got a mel of shape {tuple(mel.shape)}, expected (batch, bins, frames); add a batch axis")
        given = (len(mel), 0) if style is None else tuple(style.shape)
        if given != (len(mel), self.style):
            raise WavegenError(
                f"got a style of shape {given}, expected {(len(mel), self.style)}; the vocoder was trained with styles "
                f"of {self.style} numbers"
            )
