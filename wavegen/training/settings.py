"""What a run was told to do, as plain data, and the two things that follow from it and a step: rate and seed."""

import hashlib
import math
from dataclasses import dataclass

from wavegen.errors import WavegenError

__all__ = ["Settings", "lr_at", "seed_of"]


@dataclass(frozen=True)
class Settings:
    """The arguments of `fit` that decide the weights, checked.

    Raises:
        WavegenError: a value out of its range, by name.
    """

    steps: int
    lr: float
    seed: int
    clip: float
    precision: str
    accumulate: int
    warmup: int
    decay: str | int
    final: float
    betas: tuple[float, float]
    weight_decay: float
    ema: float

    def __post_init__(self) -> None:
        halves = isinstance(self.decay, int) and self.decay >= 1
        self._need("steps", self.steps >= 1, "at least 1")
        self._need("lr", 0 < self.lr < math.inf, "a positive number such as 1e-3")
        self._need("clip", self.clip >= 0, "the largest gradient norm, or 0 for none")
        self._need("precision", self.precision in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16")
        self._need("accumulate", self.accumulate >= 1, "at least 1")
        self._need("warmup", self.warmup >= 0, "a number of steps")
        self._need("decay", halves or self.decay in ("constant", "linear", "cosine"), "a name or steps per halving")
        self._need("final", 0 <= self.final <= 1, "a fraction of lr from 0 to 1")
        self._need("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1")
        self._need("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._need("ema", 0 <= self.ema < 1, "a decay such as 0.999, or 0 for none")

    def _need(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise WavegenError(f"got {name}={getattr(self, name)!r}, expected {expected}; change `{name}`")

    def lr_at(self, step: int) -> float:
        """The learning rate of this run at a step."""
        return lr_at(step, lr=self.lr, steps=self.steps, warmup=self.warmup, decay=self.decay, final=self.final)


def lr_at(
    step: int, *, lr: float, steps: int, warmup: int = 0, decay: str | int = "constant", final: float = 0.0
) -> float:
    """The learning rate of step `step`, counted from 0: a straight climb over `warmup` steps, then the decay.

    `decay` is "constant", "linear" or "cosine" (from `lr` to `final * lr` at `steps`), or a number N: halved every
    N steps.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    if isinstance(decay, int):
        return lr * 0.5 ** (step // decay)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}[decay]
    return lr * (final + (1 - final) * left)


def seed_of(*parts: object) -> int:
    """A seed for torch that is a function of `parts` alone, such as (seed, step, rank); near ones are unrelated."""
    # 32 bits, because torch's generator on the CPU looks at no more
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
