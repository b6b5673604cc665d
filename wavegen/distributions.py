"""What a sample of sound may follow, given the parameters a network put out for it.

A law turns `width` numbers a sample into a density, in nats, and draws from it with noise that is passed in: first a
uniform number for the discrete choice (which class, which component), then a standard number of the law's own shape.
With randomness as an argument, every implementation of a sampler can be compared number by number.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional

from wavegen.audio import mulaw
from wavegen.errors import WavegenError

__all__ = ["LAWS", "Law", "MixtureOfGaussians", "MixtureOfLogistics", "MuLaw"]


class Law(ABC):
    """A family of distributions over one sample."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many parameters one sample takes."""

    @abstractmethod
    def log_prob(self, params: Float[Tensor, "*S width"], x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Log density of x, in nats."""

    @abstractmethod
    def sample(
        self, params: Float[Tensor, "*S width"], noise: Float[Tensor, "*S 2"], temperature: float = 1.0
    ) -> Float[Tensor, "*S"]:
        """The x that `noise` stands for; a temperature below 1 sharpens choices and narrows spreads."""

    @staticmethod
    @abstractmethod
    def standard(uniform: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Standard noise of this law from uniform noise in (0, 1): its quantile function."""

    @classmethod
    def noise(cls, shape: tuple[int, ...], generator: Generator | None = None) -> Float[Tensor, "*S 2"]:
        """Noise for `sample`: the last axis holds a uniform and a standard number."""
        uniform = torch.rand((*shape, 2), generator=generator, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        return torch.stack([uniform[..., 0], cls.standard(uniform[..., 1])], dim=-1).float()


def choose(logits: Float[Tensor, "*S K"], uniform: Float[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """The class whose interval of the cumulative distribution holds `uniform`."""
    weight = (logits - logits.amax(-1, keepdim=True)).exp().cumsum(-1)
    return (weight <= uniform.unsqueeze(-1) * weight[..., -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)


@dataclass(frozen=True)
class MuLaw(Law):
    """A softmax over `classes` mu-law steps, uniform within a step (van den Oord et al., "WaveNet", 2016, section 2.2).

    As a density: log p(x) = log P(class of x) - log(width of that class), so that it is measured in the same unit as
    the continuous laws.
    """

    classes: int = 256

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise WavegenError(f"got a softmax over {self.classes} classes, expected at least 2")

    @property
    def width(self) -> int:
        return self.classes

    def log_prob(self, params: Float[Tensor, "*S width"], x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        edges = mulaw.edges(self.classes).to(params)
        code = self.encode(x)
        chosen = functional.log_softmax(params, -1).gather(-1, code.unsqueeze(-1)).squeeze(-1)
        return chosen - (edges[1:] - edges[:-1]).log()[code]

    def sample(
        self, params: Float[Tensor, "*S width"], noise: Float[Tensor, "*S 2"], temperature: float = 1.0
    ) -> Float[Tensor, "*S"]:
        return self.decode(choose(params / max(temperature, 1e-6), noise[..., 0]))

    @staticmethod
    def standard(uniform: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return uniform

    def encode(self, x: Float[Tensor, "*S"]) -> Int[Tensor, "*S"]:
        """The class of x in [-1, 1]."""
        return mulaw.encode(x, self.classes)

    def decode(self, code: Int[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The value a class stands for."""
        return mulaw.decode(code, self.classes)


@dataclass(frozen=True)
class _Mixture(Law):
    """`components` scaled and shifted copies of one standard density."""

    components: int = 1
    log_scale_min: float = -7.0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise WavegenError(f"got a mixture of {self.components} components, expected at least 1")

    @property
    def width(self) -> int:
        return 2 if self.components == 1 else 3 * self.components

    def split(self, params: Float[Tensor, "*S width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log scales, each (*S, components)."""
        k = self.components
        logits = params[..., :k] if k > 1 else torch.zeros_like(params[..., :1])
        return logits, params[..., -2 * k : -k], params[..., -k:].clamp(min=self.log_scale_min)

    @abstractmethod
    def log_standard(self, e: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Log density of the standard shape."""

    def log_prob(self, params: Float[Tensor, "*S width"], x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        logits, mean, log_scale = self.split(params)
        parts = self.log_standard((x.unsqueeze(-1) - mean) * (-log_scale).exp()) - log_scale
        return torch.logsumexp(functional.log_softmax(logits, -1) + parts, -1)

    def sample(
        self, params: Float[Tensor, "*S width"], noise: Float[Tensor, "*S 2"], temperature: float = 1.0
    ) -> Float[Tensor, "*S"]:
        logits, mean, log_scale = self.split(params)
        k = choose(logits / max(temperature, 1e-6), noise[..., 0]).unsqueeze(-1)
        mean, scale = mean.gather(-1, k).squeeze(-1), log_scale.gather(-1, k).squeeze(-1).exp()
        return mean + scale * temperature * noise[..., 1]


@dataclass(frozen=True)
class MixtureOfGaussians(_Mixture):
    """Gaussians; with one component, the law of Ping et al., "ClariNet" (2018), section 3.1."""

    def log_standard(self, e: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return -0.5 * e.square() - 0.5 * math.log(2 * math.pi)

    @staticmethod
    def standard(uniform: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return torch.special.ndtri(uniform)


@dataclass(frozen=True)
class MixtureOfLogistics(_Mixture):
    """Logistics, as in Salimans et al., "PixelCNN++" (2017), here as a density rather than over bins."""

    def log_standard(self, e: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        tail = e.abs()  # the density is even: e^-|e| / (1 + e^-|e|)^2 never overflows
        return -tail - 2 * (-tail).exp().log1p()

    @staticmethod
    def standard(uniform: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return torch.special.logit(uniform)


LAWS = {"mulaw": MuLaw, "logistics": MixtureOfLogistics, "gaussians": MixtureOfGaussians}
