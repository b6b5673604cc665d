"""What conditions a vocoder's network: a mel and a style, brought to the rate of the network's steps."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wavegen.nn import Upsample, factors

__all__ = ["Smooth", "Transposed"]


class Smooth(nn.Module):
    """Convolutions of widths `context` over frames, then repeated and smoothed to `steps` a frame."""

    def __init__(self, bins: int, channels: int, *, steps: int, context: tuple[int, ...]) -> None:
        super().__init__()
        self.context = nn.ModuleList(
            nn.Conv1d(channels if i else bins, channels, width, padding=width // 2) for i, width in enumerate(context)
        )
        self.upsample = Upsample(factors(steps))

    @property
    def margin(self) -> int:
        """Frames on either side that a step depends on."""
        return sum(layer.kernel_size[0] // 2 for layer in self.context) + self.upsample.reach  # type: ignore[union-attr]

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
