"""Posterior collapse: schedules against it, and how to see it.

A latent has collapsed when its posterior is the prior whatever x is. Remedies in the fields of a model: `beta`,
`free_bits`, `capacity`, `norm`, `rate`; and here, over the steps of a training, annealing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.errors import WavegenError

__all__ = ["ALARM", "Collapse", "active_units", "annealed", "cyclical", "information", "linear"]

ACTIVE = 0.01  # variance over clips of a unit's posterior mean (Burda et al., "Importance weighted autoencoders", 2016)

ALARM = 0.1  # share of active units below which a latent has collapsed

Batch = Mapping[str, Tensor]


class Collapse(UserWarning):
    """The latent says next to nothing of the data."""


@dataclass(frozen=True)
class annealed:  # noqa: N801 - reads as a word in front of batches
    """Batches that also say how much of the KL counts at their step, as "anneal" (Bowman et al., 2016, section 3.1).

    `schedule(step)` is a factor of the model's `beta`, or of its `capacity` where it has one.
    """

    batch_at: Callable[[int], Batch]
    schedule: Callable[[int], float]

    def __call__(self, step: int) -> dict[str, Tensor]:
        return {**self.batch_at(step), "anneal": torch.tensor(float(self.schedule(step)))}


@dataclass(frozen=True)
class linear:  # noqa: N801
    """0 at first, from step `after` on to 1 over so many steps, then 1."""

    steps: int
    after: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.after < 0:
            raise WavegenError(f"got {self.steps} steps after {self.after}, expected at least 1 after 0 or more")

    def __call__(self, step: int) -> float:
        return min(1.0, max(0, step - self.after) / self.steps)


@dataclass(frozen=True)
class cyclical:  # noqa: N801
    """From 0 to 1 over the first `ramp` of every `period` steps, then 1 (Fu et al., "Cyclical annealing", 2019)."""

    period: int
    ramp: float = 0.5

    def __post_init__(self) -> None:
        if self.period < 1 or not 0 < self.ramp <= 1:
            raise WavegenError(f"got periods of {self.period} steps, {self.ramp} of them rising, expected 1 and (0, 1]")

    def __call__(self, step: int) -> float:
        return min(1.0, step % self.period / (self.ramp * self.period))


def active_units(means: Float[Tensor, "B D"]) -> Float[Tensor, " D"]:
    """1 for each unit whose posterior mean varies over the clips by more than 0.01, else 0 (Burda et al., 2016)."""
    return (means.var(0, correction=0) > ACTIVE).float()


def information(table: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """What z tells of which clip of the batch it is from, in nats, at most log B, by log q(z_i | x_j) of all pairs.

    Hoffman and Johnson, "ELBO surgery" (2016), the index-code mutual information.
    """
    return (table.diagonal() - table.logsumexp(1) + math.log(len(table))).mean()
