"""What conditions a vocoder's network: a mel, brought from the rate of frames to that of the network's steps."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Smooth", "Transposed", "Upsample", "UpsampleBands", "factors"]


def factors(number: int, *, largest: int = 4) -> tuple[int, ...]:
    """Factors of a number, primes multiplied together while they stay at `largest` or below: 256 -> (4, 4, 4, 4)."""
    primes, divisor = [], 2
    while number > 1:
        if number % divisor == 0:
            primes.append(divisor)
            number //= divisor
        else:
            divisor += 1
    grouped: list[int] = []
    for prime in primes:
        if grouped and grouped[-1] * prime <= largest:
            grouped[-1] *= prime
        else:
            grouped.append(prime)
    return tuple(grouped)


class Upsample(nn.Module):
    """Frames to steps: for each factor s, repeat and smooth with a learned filter that all channels share.

    The filter of 2 s + 1 taps starts as a moving average (as in the upsampler of r9y9's WaveNet). It reaches no
    further than the neighbouring frames, so that both together are a product with an (s, 3) matrix:

        frame        f - 1            f           f + 1
        repeated  . . . . . .  |  . . . . . |  . . . . .
        filter          [- - - - - o - - - - -]
    """

    def __init__(self, rates: Sequence[int]) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.filters = nn.ParameterList(nn.Parameter(torch.full((2 * s + 1,), 1 / (2 * s + 1))) for s in self.rates)

    @property
    def reach(self) -> int:
        """Frames on either side that a step depends on, rounded up."""
        reach, rate = 0.0, 1
        for factor in self.rates:
            reach += 1 / rate
            rate *= factor
        return math.ceil(reach)

    def forward(self, x: Float[Tensor, "F B C"]) -> Float[Tensor, "N B C"]:
        shape = x.shape[1:]
        x = x.flatten(1)
        for factor, smooth in zip(self.rates, self.filters, strict=True):
            tap = torch.arange(2 * factor + 1, device=x.device)
            frame = (torch.arange(factor, device=x.device).unsqueeze(1) + tap) // factor  # 0, 1, 2: f - 1, f, f + 1
            matrix = smooth.new_zeros(factor, 3).scatter_add(1, frame, smooth.expand(factor, -1))
            near = functional.pad(x, (0, 0, 1, 1)).unfold(0, 3, 1)  # (F, BC, 3)
            x = (near @ matrix.T).transpose(1, 2).reshape(-1, x.shape[-1])
        return x.unflatten(1, shape)


class UpsampleBands(nn.Module):
    """Frames to steps: for each factor s, a learned filter over 3 neighbouring bands for each of s steps, then a ReLU.

    The transposed convolutions of r9y9's first WaveNets; a step depends on its own frame alone.
    """

    reach = 0  # frames on either side

    def __init__(self, rates: Sequence[int]) -> None:
        super().__init__()
        self.filters = nn.ParameterList(nn.Parameter(torch.full((3, s), 1 / 3)) for s in rates)
        self.bias = nn.Parameter(torch.zeros(len(self.filters)))

    def forward(self, x: Float[Tensor, "F B C"]) -> Float[Tensor, "N B C"]:
        for smooth, bias in zip(self.filters, self.bias, strict=True):
            near = functional.pad(x, (1, 1)).unfold(-1, 3, 1)  # (F, B, C, 3)
            x = functional.relu(near @ smooth + bias).permute(0, 3, 1, 2).flatten(0, 1)
        return x


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
