"""Coupling: one part of x decides, through any network at all, what is done to the other.

    y_a = x_a;    y_b = x_b exp(s(x_a, c)) + t(x_a, c)

Without the scale it is additive (Dinh et al., "NICE", 2015, eq. 5), with it affine (Dinh et al., "Density estimation
using Real NVP", 2017, eq. 4). The network is a module of its own: `net(x_a, cond)` gives t, and s after it, along the
channels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavegen.errors import WavegenError
from wavegen.flows.base import Affine, Chain, Cond
from wavegen.flows.channels import ActNorm, Invertible1x1

__all__ = ["Coupling", "MaskedCoupling", "checkerboard", "glow_step", "halves"]


class Learned(Affine):
    """An affine map by a network; log-scales stay within (-bound, bound), smoothly, or are free without one."""

    def __init__(self, net: nn.Module, *, scale: bool = True, bound: float | None = 3.0) -> None:
        super().__init__()
        self.net, self.scale, self.bound = net, scale, bound

    def ask(self, seen: Float[Tensor, "B A *S"], cond: Cond, channels: int) -> tuple[Tensor, Tensor]:
        """Shift and log-scale of so many channels, by what the network makes of those it sees."""
        out = self.net(seen, cond).to(seen.dtype)
        if out.shape[1] != channels * (1 + self.scale):
            raise WavegenError(
                f"got {out.shape[1]} channels from a network, expected {channels * (1 + self.scale)}; it gives a shift "
                "for each channel that changes, and after them a log-scale for each if they are scaled"
            )
        if not self.scale:
            return out, torch.zeros_like(out)
        shift, log_scale = out.chunk(2, dim=1)
        return shift, log_scale if self.bound is None else self.bound * torch.tanh(log_scale / self.bound)


class Coupling(Learned):
    """The first `keep` channels change the rest.

    Raises:
        WavegenError: a network whose output does not fit the rest.
    """

    def __init__(self, keep: int, net: nn.Module, *, scale: bool = True, bound: float | None = 3.0) -> None:
        super().__init__(net, scale=scale, bound=bound)
        self.keep = keep

    def coefficients(self, x: Float[Tensor, "B C *S"], cond: Cond) -> tuple[Tensor, Tensor]:
        a = x[:, : self.keep]
        shift, log_scale = self.ask(a, cond, x.shape[1] - a.shape[1])
        still = torch.zeros_like(a)
        return torch.cat([still, shift], dim=1), torch.cat([still, log_scale], dim=1)


class MaskedCoupling(Learned):
    """What a mask keeps changes the rest, wherever it lies; the network sees zeros in place of the rest.

    `mask` has the shape of an item, or one that is broadcast to it, such as (C, 1, 1).

    Raises:
        WavegenError: a mask or a network that does not fit the items.
    """

    mask: Tensor

    def __init__(
        self, mask: Bool[Tensor, "..."], net: nn.Module, *, scale: bool = True, bound: float | None = 3.0
    ) -> None:
        super().__init__(net, scale=scale, bound=bound)
        self.register_buffer("mask", mask, persistent=False)

    def coefficients(self, x: Float[Tensor, "B C *S"], cond: Cond) -> tuple[Tensor, Tensor]:
        mask, shape = tuple(self.mask.shape), tuple(x.shape[1:])
        if len(mask) != len(shape) or not all(m in (1, n) for m, n in zip(mask, shape, strict=True)):
            raise WavegenError(f"got a mask of shape {mask}, expected {shape}, or 1 for any size; build it for them")
        keep = self.mask.to(x.dtype)
        shift, log_scale = self.ask(x * keep, cond, x.shape[1])
        return shift * (1 - keep), log_scale * (1 - keep)


def checkerboard(shape: Sequence[int], *, odd: bool = False) -> Bool[Tensor, "..."]:
    """Every other position of an item's shape: those whose indices add up to an even number, or an odd one."""
    total = sum(torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij"))
    return torch.as_tensor(total) % 2 == int(odd)


def glow_step(channels: int, net: nn.Module, *, bound: float | None = 3.0) -> Chain:
    """Normalise, mix, couple the halves: the step of Glow (Kingma and Dhariwal, "Glow", 2018, figure 2a)."""
    return Chain(ActNorm(channels), Invertible1x1(channels), Coupling(halves(channels), net, bound=bound))


def halves(channels: int) -> int:
    """How many channels are one half of them.

    Raises:
        WavegenError: an odd number.
    """
    if channels % 2:
        raise WavegenError(f"got {channels} channels to halve, expected an even number; squeeze or pad them first")
    return channels // 2
