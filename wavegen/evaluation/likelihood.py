"""One unit for every likelihood: bits to code one sample of a 16-bit recording.

A density model gives log p(x) in nats per sample, for x in [-1, 1] as it is heard: no companding, no gain. A 16-bit
grid has 32,768 steps to a unit of x, so the probability of a grid point is about p(x) / 32768, and

    bits = (ln 32768 - log p(x)) / ln 2 = 15 - log2 p(x).

A model of classes (mu-law) is a density that is flat within each: log p(x) = log P(class) - ln(width of the class in
x). Recordings are taken as they are; a model adds uniform noise of one 16-bit step itself, without which the density
of a silent recording has no bound.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from wavegen.errors import WavegenError
from wavegen.evaluation.bootstrap import Interval, bootstrap
from wavegen.evaluation.metrics import Unmeasurable
from wavegen.model import Model

__all__ = ["Likelihood", "bits_per_sample", "likelihood", "nats_per_sample"]


class Likelihood(NamedTuple):
    """Negative log density per sample in nats and in bits, lower is better, with 95 % intervals over batches."""

    nats: Interval
    bits: Interval
    samples: int


def bits_per_sample(log_density: float) -> float:
    """Bits per 16-bit sample for a mean log density in nats per sample over x in [-1, 1]."""
    return (math.log(2**15) - log_density) / math.log(2)


@torch.no_grad()
def nats_per_sample(model: Model, batch: Mapping[str, Tensor], *, seed: int = 0) -> float:
    """Mean negative log density of a batch in nats per sample, in evaluation mode, on the model's device.

    Raises:
        Unmeasurable: the model's loss has no "nats".
        WavegenError: they are not finite.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            terms = model.eval().loss({name: value.to(device) for name, value in batch.items()})
        finally:
            model.train(training)
    if "nats" not in terms:
        raise Unmeasurable(f'the loss of {type(model).__name__} has no "nats"; only a model with a likelihood has bits')
    nats = float(terms["nats"])
    if not math.isfinite(nats):
        raise WavegenError(f"{type(model).__name__} gives {nats} nats per sample, expected a number; check the model")
    return nats


def likelihood(model: Model, batches: Iterable[Mapping[str, Tensor]], *, seed: int = 0) -> Likelihood:
    """Likelihood of held-out batches {"wav": (B, T), "mel": (B, M, F), ...}, each weighted by its samples.

    Raises:
        WavegenError: no batch; as `nats_per_sample`.
    """
    totals, samples = [], []
    for index, batch in enumerate(tqdm(batches, desc="likelihood", delay=1, leave=False, disable=None)):
        samples.append(batch["wav"].numel())
        totals.append(samples[-1] * nats_per_sample(model, batch, seed=seed + index))
    nats = bootstrap(totals, samples)
    return Likelihood(nats, Interval(*(bits_per_sample(-value) for value in nats)), sum(samples))
