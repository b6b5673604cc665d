"""The exponential moving average of the weights, which is what is validated and shipped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["Average"]


class Average:
    """A running average of `parameters`: average = d * average + (1 - d) * parameter, d = min(decay, (1+t)/(10+t)).

    The warm-up of d forgets the random start, so that a short run has a useful average too. With `decay` 0 the
    average is the parameters.
    """

    def __init__(self, parameters: Sequence[Tensor], *, decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.tensors = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(tuple(self.tensors), tuple(self.parameters), None)

    @torch.no_grad()
    def into_model(self) -> None:
        """Overwrite the parameters with their average."""
        _copy(self.tensors, into=self.parameters)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within, the parameters are their average; afterwards they are what they were."""
        with torch.no_grad():
            kept = [parameter.detach().clone() for parameter in self.parameters]
            self.into_model()
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(kept, into=self.parameters)


def _copy(tensors: Sequence[Tensor], *, into: Sequence[Tensor]) -> None:
    for tensor, place in zip(tensors, into, strict=True):
        place.copy_(tensor)
