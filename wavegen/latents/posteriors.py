"""Posteriors q(z | x): invertible maps from a latent z to white noise, given features of x.

Run backwards they draw, z = f^-1(noise), and by the change of variables log q(z | x) = log N(f(z); 0, I) + log |det|.
A diagonal Gaussian is one such map (Kingma and Welling, "Auto-encoding variational Bayes", 2014); steps of a flow
before it make it richer: inverse autoregressive ones (Kingma et al., "IAF", 2016) or Glow's (Su and Wu, "f-VAEs",
2018, where flow and VAE are one model).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wavegen.errors import WavegenError
from wavegen.flows.autoregressive import Autoregressive
from wavegen.flows.base import Affine, Chain, Cond, Inverse, Mapped
from wavegen.flows.channels import Invertible1x1, flip
from wavegen.flows.coupling import Coupling, halves
from wavegen.nn import MLP

__all__ = ["Diagonal", "Gaussian", "Grouped", "divergence", "glow_steps", "iaf_steps"]

Moments = tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]  # means and log standard deviations
BOUND = 5.0  # of log standard deviations


class Gaussian(Affine):
    """y = (z - mean) / std, where a coordinate's moments may depend on the condition and on coordinates before it."""

    @abstractmethod
    def moments(self, z: Float[Tensor, "B D"], cond: Cond) -> Moments:
        """Mean and log standard deviation of each coordinate, given those of z before it."""

    def coefficients(self, x: Float[Tensor, "B C *S"], cond: Cond) -> tuple[Tensor, Tensor]:
        mean, log_std = self.moments(x, cond)
        return -mean * (-log_std).exp(), -log_std


class Diagonal(Gaussian):
    """Moments by one linear layer of the features, with two remedies against collapse, alone or together.

    With `norm` = g > 0 the mean of every coordinate is normalised over the batch to a standard deviation of g: then
    its mean KL from N(0, 1) is at least g^2 / 2 (Zhu et al., "BN-VAE", 2020, eq. 6). With `rate` = r > 0, in nats a
    coordinate, the standard deviation is exp(-r) and the D means have the squared length D (1 - exp(-2 r)): then the KL
    from N(0, I) is D r for every item, and only the direction is free, so it costs nothing to use it (as committed
    rates are in Razavi et al., "delta-VAE", 2019).
    """

    def __init__(self, features: int, latent: int, *, norm: float = 0.0, rate: float = 0.0) -> None:
        super().__init__()
        self.net, self.scale, self.rate = nn.Linear(features, 2 * latent), norm, rate
        # without the usual 1e-5 in the variance, under which means that hardly vary would stay so
        self.norm = nn.BatchNorm1d(latent, affine=False, eps=1e-12) if norm else None

    def moments(self, z: Float[Tensor, "B D"], cond: Cond) -> Moments:
        mean, log_std = self.net(cond).to(z.dtype).chunk(2, dim=1)
        log_std = BOUND * torch.tanh(log_std / BOUND)
        if self.norm is not None:
            if self.training and len(mean) < 2:
                raise WavegenError("got a batch of one clip for `norm`, expected two or more; raise the batch")
            mean = self.scale * self.norm(mean)
        if self.rate:
            size = math.sqrt(mean.shape[1] * -math.expm1(-2 * self.rate))
            mean, log_std = size * functional.normalize(mean, dim=1), torch.full_like(mean, -self.rate)
        return mean, log_std


class Grouped(Gaussian):
    """Groups of coordinates from coarse to fine, each given those before it and a condition, of `cond` numbers or none.

    Without a condition the first group is left as it is. It stands for N(0, I) at first.
    """

    def __init__(self, latent: int, groups: int, *, hidden: Sequence[int], cond: int = 0) -> None:
        super().__init__()
        self.size, self.first = latent // groups, int(not cond)
        self.nets = nn.ModuleList(
            MLP(group * self.size, 2 * self.size, hidden=hidden, cond=cond) for group in range(self.first, groups)
        )

    def group(self, index: int, z: Float[Tensor, "B C"], cond: Cond) -> Moments:
        """Moments of a group given the z before it."""
        if index < self.first:
            return z.new_zeros(len(z), self.size), z.new_zeros(len(z), self.size)
        mean, log_std = self.nets[index - self.first](z[:, : index * self.size], cond).to(z.dtype).chunk(2, dim=1)
        return mean, BOUND * torch.tanh(log_std / BOUND)

    def moments(self, z: Float[Tensor, "B D"], cond: Cond) -> Moments:
        groups = [self.group(index, z, cond) for index in range(self.first + len(self.nets))]
        mean, log_std = (torch.cat(parts, dim=1) for parts in zip(*groups, strict=True))
        return mean, log_std

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        z, logdet = y[:, :0], y.new_zeros(len(y))
        for index, noise in enumerate(y.split(self.size, dim=1)):
            mean, log_std = self.group(index, z, cond)
            z, logdet = torch.cat([z, mean + noise * log_std.exp()], dim=1), logdet + log_std.sum(1)
        return z, logdet


def divergence(q: Moments, p: Moments) -> Float[Tensor, "B D"]:
    """KL of Gaussians q from p in nats, coordinate by coordinate (Kingma and Welling, 2014, appendix B)."""
    apart = (q[0] - p[0]) * (-p[1]).exp()
    return 0.5 * (apart.square() + (2 * (q[1] - p[1])).exp() - 1) - (q[1] - p[1])


def iaf_steps(latent: int, *, steps: int, hidden: Sequence[int], cond: int, bound: float = 2.0) -> Chain:
    """Inverse autoregressive steps, in both orders in turn: they draw at once, a density takes D passes for each."""

    def net() -> MLP:
        return MLP(latent, 2 * latent, hidden=hidden, cond=cond, causal=True)

    return Chain(*(Chain(Inverse(Autoregressive(net(), bound=bound)), flip(latent)) for _ in range(steps)))


def glow_steps(latent: int, *, steps: int, hidden: Sequence[int], cond: int, bound: float = 2.0) -> Chain:
    """Glow's steps over the coordinates of a point, without its normalisation, which would depend on a first batch."""
    keep = halves(latent)

    def net() -> MLP:
        return MLP(keep, 2 * (latent - keep), hidden=hidden, cond=cond)

    return Chain(*(Chain(Invertible1x1(latent), Coupling(keep, net(), bound=bound)) for _ in range(steps)))
