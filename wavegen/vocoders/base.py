"""The contract of a vocoder: mel spectrogram in, sound out."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

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
        temperature: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Sound in [-1, 1] of exactly `F * mel.hop` samples; the same seed gives the same samples.

        At temperature 1 the model draws what it learned, below 1 something calmer; None stands for what suits it.
        `progress` is called with the number of samples made since its last call.
        """

    @abstractmethod
    def stream(
        self,
        mels: Iterable[Float[Tensor, "M _F"]],
        style: Float[Tensor, " D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> Iterator[Float[Tensor, " _T"]]:
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
            raise WavegenError(
                f"got a mel of shape {tuple(mel.shape)}, expected (batch, bins, frames); add a batch axis"
            )
        if style is not None and not style.isfinite().all():
            raise WavegenError("got a style with NaN or infinite values, expected finite ones; compute it again")
        given = (len(mel), 0) if style is None else tuple(style.shape)
        if given != (len(mel), self.style):
            raise WavegenError(
                f"got a style of shape {given}, expected {(len(mel), self.style)}; the vocoder was trained with styles "
                f"of {self.style} numbers"
            )
