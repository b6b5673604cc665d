"""What conditions a vocoder's network: a mel, brought from the rate of frames to that of the network's steps."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wavegen.nn import Upsample, UpsampleBands, factors

__all__ = ["Smooth", "Transposed"]


class Smooth(nn.Module):
    """Convolutions of widths `context` over frames, then each frame repeated to `steps` of them and smoothed.

    Beyond both ends are zeros, or the frames there (`edges`).
    """

    def __init__(
        self,
        bins: int,
        channels: int,
        *,
        steps: int,
        context: tuple[int, ...],
        edges: Literal["zeros", "replicate"] = "zeros",
        bands: bool = False,
    ) -> None:
        super().__init__()
        self.context = nn.ModuleList(
            nn.Conv1d(channels if i else bins, channels, width, padding=width // 2, padding_mode=edges)
            for i, width in enumerate(context)
        )
        self.upsample = (UpsampleBands if bands else Upsample)(factors(steps))
        self.margin = sum(width // 2 for width in context) + self.upsample.reach  # frames that a step looks away

    def forward(self, mel: Float[Tensor, "B M F"]) -> Float[Tensor, "N B C"]:
        for i, layer in enumerate(self.context):
            mel = layer(functional.leaky_relu(mel, 0.2) if i else mel)
        return self.upsample(mel.permute(2, 0, 1))


class Transposed(nn.Module):
    """WaveGlow's: bands at the rate of samples by a transposed convolution over four frames, then `group` to a step."""

    margin = 3  # frames, all of them earlier

    def __init__(self, bins: int, *, hop: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.upsample = nn.ConvTranspose1d(bins, bins, 4 * hop, stride=hop)

    def forward(self, mel: Float[Tensor, "B M F"]) -> Float[Tensor, "N B C"]:
        samples = mel.shape[-1] * self.upsample.stride[0]
        bands = self.upsample(mel)[..., :samples]
        return bands.unflatten(2, (-1, self.group)).permute(2, 0, 1, 3).flatten(2)
