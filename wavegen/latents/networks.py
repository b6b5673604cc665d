"""The networks of a VAE over utterances: many steps to one vector of features, and one latent to many steps.

Mels (B, M, F) are folded to steps (N, B, C) of a few frames each. Items of a batch differ in length; of what lies
beyond the end of one, nothing is seen: an item gives the same numbers however far it is padded.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from wavegen.nn import GatedStack

__all__ = ["Decoder", "Encoder", "fold", "lasting", "unfold"]

WAVES = 8  # cosines that tell a step its place in the utterance


def fold(mel: Float[Tensor, "B M F"], stride: int) -> Float[Tensor, "N B C"]:
    """Steps of `stride` frames, zeros at the end to make them whole."""
    padded = functional.pad(mel, (0, -mel.shape[-1] % stride))
    return padded.unflatten(2, (-1, stride)).permute(2, 0, 1, 3).flatten(2)


def unfold(steps: Float[Tensor, "N B C"], stride: int, frames: int) -> Float[Tensor, "B M F"]:
    """The frames that were folded."""
    return steps.unflatten(2, (-1, stride)).permute(1, 2, 0, 3).flatten(2)[..., :frames]


def within(steps: int, counts: Int64[Tensor, " B"]) -> Bool[Tensor, "N B 1"]:
    """Which of so many steps each item has."""
    return (torch.arange(steps, device=counts.device).unsqueeze(1) < counts).unsqueeze(2)


def places(steps: int, counts: Int64[Tensor, " B"]) -> Float[Tensor, "N B P"]:
    """Where each step lies between the item's start and end, as cosines, and how long the item is."""
    share = (torch.arange(steps, device=counts.device).unsqueeze(1) + 0.5) / counts
    waves = torch.cos(math.pi * share.unsqueeze(2) * torch.arange(1, WAVES + 1, device=counts.device))
    length = (counts.float().log() / 4).expand(steps, -1).unsqueeze(2)
    return torch.cat([waves, length], dim=2)


def lasting(frames: Int64[Tensor, " B"], length: int) -> Bool[Tensor, "B F"]:
    """Which of so many frames each item has."""
    return torch.arange(length, device=frames.device) < frames.unsqueeze(1)


class Steps(nn.Module):
    """WaveNet's gated convolutions over steps, of which every item has its own number."""

    def __init__(
        self, inputs: int, channels: int, *, layers: int, cond: int = 0, style: int = 0, causal: bool = False
    ) -> None:
        super().__init__()
        dilations = [2 ** (layer % 4) for layer in range(layers)]
        self.start = nn.Linear(inputs, channels)
        self.stack = GatedStack(
            channels, channels, channels, dilations=dilations, kernel=2 if causal else 3, cond=cond, style=style,
            causal=causal,
        )  # fmt: skip

    def forward(
        self,
        x: Float[Tensor, "N B I"],
        counts: Int64[Tensor, " B"],
        cond: Float[Tensor, "N B C"] | None = None,
        style: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "N B H"]:
        # every item ends in at least as many zeros as a layer can look ahead, so that more of them change nothing
        here, ahead = within(len(x), counts), 0 if self.stack.causal else self.stack.reach
        h = functional.pad(self.start(x) * here, (0, 0, 0, 0, 0, ahead))
        beside = None if cond is None else functional.pad(cond * here, (0, 0, 0, 0, 0, ahead))
        return functional.silu(self.stack(h, beside, style)[: len(x)])


class Encoder(nn.Module):
    """Features of an utterance: attentive means and deviations over its steps (Okabe et al., 2018), and a layer."""

    def __init__(
        self, bins: int, features: int, *, channels: int, layers: int, stride: int, cond: int = 0, heads: int = 4
    ) -> None:
        super().__init__()
        self.stride = stride
        self.steps = Steps(bins * stride + WAVES + 1, channels, layers=layers)
        self.attention = nn.Linear(channels, heads)
        self.end = nn.Linear(2 * heads * channels + cond, features)

    def forward(
        self, mel: Float[Tensor, "B M F"], frames: Int64[Tensor, " B"], cond: Float[Tensor, "B K"]
    ) -> Float[Tensor, "B H"]:
        seen = mel * lasting(frames, mel.shape[-1]).unsqueeze(1)
        x, counts = fold(seen, self.stride), -(-frames // self.stride)
        h = self.steps(torch.cat([x, places(len(x), counts)], dim=2), counts)
        with torch.autocast(mel.device.type, enabled=False):
            h = h.to(mel.dtype)
            weights = self.attention(h).masked_fill(~within(len(h), counts), -math.inf).softmax(dim=0)
            mean = torch.einsum("nbh,nbc->bhc", weights, h)
            spread = torch.einsum("nbh,nbc->bhc", weights, h.square()) - mean.square()
            pooled = torch.cat([mean, spread.clamp(min=1e-4).sqrt()], dim=2).flatten(1)
            return functional.silu(self.end(torch.cat([pooled, cond], dim=1)))


class Decoder(nn.Module):
    """Mean of every bin of every frame, and a number that its standard deviation rises with, given a latent.

    A parallel decoder knows the place of a step; one with `history` also the frames before it, and looks back only.
    `cond` is the number of bands of content that go with each frame.
    """

    def __init__(
        self, latent: int, bins: int, *, channels: int, layers: int, stride: int, cond: int = 0, history: bool = False
    ) -> None:
        super().__init__()
        self.bins, self.stride, self.history = bins, stride, history
        self.style = nn.Sequential(nn.Linear(latent, channels), nn.SiLU(), nn.Linear(channels, channels))
        inputs = WAVES + 1 + bins * stride * history
        self.steps = Steps(inputs, channels, layers=layers, cond=cond * stride, style=channels, causal=history)
        self.end = nn.Linear(channels, 2 * bins * stride)

    def forward(
        self,
        z: Float[Tensor, "B D"],
        frames: Int64[Tensor, " B"],
        content: Float[Tensor, "B K F"] | None,
        mel: Float[Tensor, "B M F"] | None,
        length: int,
    ) -> tuple[Float[Tensor, "B M F"], Float[Tensor, "B M F"]]:
        """Of so many frames; `mel` is what a decoder with history looks back at."""
        counts, steps = -(-frames // self.stride), -(-length // self.stride)
        x = places(steps, counts)
        if self.history and mel is not None:
            before = functional.pad(fold(mel, self.stride), (0, 0, 0, 0, 1, 0))[:steps]
            x = torch.cat([x, before], dim=2)
        h = self.steps(x, counts, None if content is None else fold(content, self.stride), self.style(z))
        with torch.autocast(z.device.type, enabled=False):
            mean, width = self.end(h.to(z.dtype)).chunk(2, dim=2)
        return unfold(mean, self.stride, length), unfold(width, self.stride, length)
