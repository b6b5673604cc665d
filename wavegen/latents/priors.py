"""Priors p(z), in the end a density and a way to draw."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from wavegen.flows.base import Cond, Transform, gaussian

__all__ = ["Flowed", "Mixed", "Mixture", "Prior", "Vamp"]


class Prior(nn.Module, ABC):
    """A density of latents (B, D), given a condition where one is used."""

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "B D"], cond: Cond = None) -> Float[Tensor, " B"]:
        """Log density in nats."""

    @abstractmethod
    def sample(self, noise: Float[Tensor, "n D"], cond: Cond, generator: Generator | None) -> Float[Tensor, "n D"]:
        """Draws made of standard normal noise; the generator chooses where there is something to choose."""


class Flowed(Prior):
    """The law of which a map makes white noise: N(0, I) without a step, a Gaussian for each label, or any flow."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def log_prob(self, z: Float[Tensor, "B D"], cond: Cond = None) -> Float[Tensor, " B"]:
        noise, logdet = self.transform(z, cond)
        return gaussian(noise) + logdet

    def sample(self, noise: Float[Tensor, "n D"], cond: Cond, generator: Generator | None) -> Float[Tensor, "n D"]:
        return self.transform.inverse(noise, cond)[0]


class Mixed(Prior):
    """A mixture of laws: the clusters of what is drawn from it."""

    @abstractmethod
    def log_joint(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """log p(z, component), in nats."""

    def log_prob(self, z: Float[Tensor, "B D"], cond: Cond = None) -> Float[Tensor, " B"]:
        return self.log_joint(z).logsumexp(dim=1)

    def responsibilities(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """p(component | z): by which cluster each latent is explained."""
        return self.log_joint(z).softmax(dim=1)


class Mixture(Mixed):
    """Gaussians with learned weights, means and standard deviations (Jiang et al., "VaDE", 2017, eq. 4)."""

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent))
        self.log_stds = nn.Parameter(torch.full((components, latent), -0.5))

    def log_joint(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        apart = (z.unsqueeze(1) - self.means) * (-self.log_stds).exp()
        inside = -0.5 * (apart.square() + math.log(2 * math.pi)) - self.log_stds
        return inside.sum(-1) + self.logits.log_softmax(0)

    def sample(self, noise: Float[Tensor, "n D"], cond: Cond, generator: Generator | None) -> Float[Tensor, "n D"]:
        chosen = torch.multinomial(self.logits.softmax(0).cpu(), len(noise), replacement=True, generator=generator)
        chosen = chosen.to(noise.device)
        return self.means[chosen] + noise * self.log_stds[chosen].exp()


class Vamp(Mixed):
    """The posteriors of learned pseudo-inputs, equally weighted (Tomczak and Welling, "VampPrior", 2018, eq. 9).

    `posterior(inputs)` gives their features, `log_q(z, features)` the log densities (B, K), `draw(noise, features)`
    draws; they belong to the model that the prior is part of.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "K M F"],
        *,
        posterior: Callable[[Tensor], Tensor],
        log_q: Callable[[Tensor, Tensor], Tensor],
        draw: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.inputs = nn.Parameter(inputs)
        self.posterior, self.log_q, self.draw = posterior, log_q, draw

    def log_joint(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return self.log_q(z, self.posterior(self.inputs)) - math.log(len(self.inputs))

    def sample(self, noise: Float[Tensor, "n D"], cond: Cond, generator: Generator | None) -> Float[Tensor, "n D"]:
        chosen = torch.randint(len(self.inputs), (len(noise),), generator=generator)
        return self.draw(noise, self.posterior(self.inputs)[chosen])
