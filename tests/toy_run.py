"""A small model, its data and its run, for the tests of training; as a script it is what torchrun starts."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavegen.errors import WavegenError
from wavegen.model import Model
from wavegen.training import fit


@dataclass(eq=False, repr=False)
class Toy(Model):
    """A regression whose loss draws noise, with a weight that the loss does not use."""

    presets: ClassVar = {"tiny": {}}

    width: int = 8
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, self.width), nn.Tanh(), nn.Linear(self.width, 4))
        self.spare = nn.Parameter(torch.zeros(3))

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        noisy = batch["wav"] + self.noise * torch.randn_like(batch["wav"])
        error = (self.net(noisy) - batch["wav"].roll(1, dims=1)).square().mean()
        return {"loss": error, "rms": error.detach().sqrt()}


def toy(**fields: Any) -> Toy:
    torch.manual_seed(0)
    return Toy(**fields)


def wide() -> Toy:
    return toy(width=20_000, noise=0.3)


def batch_at(step: int, items: int = 12) -> dict[str, Tensor]:
    return {"wav": torch.randn(items, 4, generator=torch.Generator().manual_seed(step))}


def run(out: Path | str, steps: int, **changes: Any) -> Toy:
    """Twelve items a step of the toy, on the CPU."""
    model = changes.pop("model", None) or toy(noise=0.3)
    batches = changes.pop("batch_at", batch_at)
    settings = {
        "lr": 1e-2,
        "every": 10,
        "device": "cpu",
        "valid": [batch_at(-1), batch_at(-2), batch_at(-3)],
        **changes,
    }
    fit(model, batches, out=out, steps=steps, **settings)
    return model


def forever(out: str) -> None:
    """A run that does not end by itself, and that spends most of its time writing checkpoints."""
    run(out, 10**6, model=wide(), every=1)


def bereft(out: str, rank: int, port: int) -> None:
    """Process `rank` of two, of which the second dies at step 3; the first one writes down its error."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        run(out, 10, batch_at=lambda step: os._exit(1) if (rank, step) == (1, 3) else batch_at(step))
    except WavegenError as error:
        Path(out, "error.txt").write_text(str(error))


if __name__ == "__main__":
    run(sys.argv[1], 20, model=toy())
