"""What a flow is made of: invertible maps that know their log-determinant, and how to combine them.

A flow turns data x into noise z = f(x), so that by the change of variables (Rezende and Mohamed, "Variational inference
with normalizing flows", 2015, eq. 5)

    log p(x) = log N(f(x); 0, I) + log |det df / dx|.

Channels are axis 1, of points (B, C), sequences (B, C, T) and images (B, C, H, W) alike.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Affine", "Beyond", "Chain", "Cond", "Inverse", "Mapped", "Transform", "gaussian"]

Cond = Float[Tensor, "B ..."] | None
Mapped = tuple[Float[Tensor, "B ..."], Float[Tensor, " B"]]  # what is made of x, and log |det| of the map for each item


class Transform(nn.Module, ABC):
    """An invertible map. A condition, where one is given, steers it and is never changed."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        """Data to noise, and the log-determinant of the map for each item."""

    @abstractmethod
    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        """Noise to data, and the log-determinant of that map for each item: minus that of `forward`."""


class Affine(Transform):
    """y = x exp(log_scale) + shift, number by number."""

    @abstractmethod
    def coefficients(self, x: Float[Tensor, "B C *S"], cond: Cond) -> tuple[Tensor, Tensor]:
        """Shift and log-scale in the shape of x; they depend on nothing in x that they change."""

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        shift, log_scale = self.coefficients(x, cond)
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        shift, log_scale = self.coefficients(y, cond)
        return (y - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)


class Chain(Transform):
    """One map after another."""

    def __init__(self, *steps: Transform) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        logdet = x.new_zeros(len(x))
        for step in self.steps:
            x, more = step(x, cond)
            logdet = logdet + more
        return x, logdet

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        logdet = y.new_zeros(len(y))
        for step in reversed(self.steps):
            y, more = step.inverse(y, cond)  # type: ignore[operator]
            logdet = logdet + more
        return y, logdet


class Inverse(Transform):
    """The same map, the other way round."""

    def __init__(self, step: Transform) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        return self.step.inverse(x, cond)

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        return self.step(y, cond)


class Beyond(Transform):
    """The first `k` channels are noise already and leave early; `step` goes on with those beyond (multi-scale flows).

    Dinh et al., "Density estimation using Real NVP" (2017), section 3.6.
    """

    def __init__(self, k: int, step: Transform) -> None:
        super().__init__()
        self.k, self.step = k, step

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        y, logdet = self.step(x[:, self.k :], cond)
        return torch.cat([x[:, : self.k], y], dim=1), logdet

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        x, logdet = self.step.inverse(y[:, self.k :], cond)
        return torch.cat([y[:, : self.k], x], dim=1), logdet


def gaussian(z: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
    """Log density of the standard normal at each item, in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
