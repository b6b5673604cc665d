"""The order in which training draws its items, and what each process gets of it: a pure function of (seed, step)."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int64

from wavegen.errors import WavegenError

__all__ = ["Epochs"]


class Epochs:
    """`epochs(step)` is the draws of a batch, out of an endless sequence of epochs over `items` items.

    A draw is (item, place): every item comes once in an epoch, in shuffled order, each time with a place, uniform in
    [0, 1), for what is to be random about it. Batch `step` holds draws step * batch to (step + 1) * batch of the
    sequence, across the end of an epoch too; process `rank` of `world` gets the `rank`-th share of them.

    Raises:
        WavegenError: `rank` is not one of `world`, `batch` does not split over `world`, a step below 0.
    """

    def __init__(self, items: int, *, batch: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise WavegenError(f"got rank {rank} of {world} processes, expected 0 to {world - 1}")
        if batch < 1 or batch % world:
            raise WavegenError(
                f"got a batch of {batch}, expected a positive multiple of {world}, the number of processes"
            )
        self.items, self.batch, self.seed, self.rank, self.world = items, batch, seed, rank, world
        self._orders = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, step: int) -> list[tuple[int, float]]:
        """The draws of this process for a step, counted from 0."""
        if step < 0:
            raise WavegenError(f"got step {step}, expected 0 or more")
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        return [self.draw(number) for number in range(first, first + share)]

    def draw(self, number: int) -> tuple[int, float]:
        """Draw `number` of the endless sequence."""
        epoch, at = divmod(number, self.items)
        order, places = self._orders(epoch)
        return int(order[at]), float(places[at])

    def _shuffle(self, epoch: int) -> tuple[Int64[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch))))
        return random.permutation(self.items), random.random(self.items)
