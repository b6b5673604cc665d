"""One step of training: gradients of a batch, checked, clipped, and applied once; or nothing at all."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wavegen.errors import WavegenError
from wavegen.model import Model
from wavegen.training.ema import Average
from wavegen.training.group import Group
from wavegen.training.settings import Settings, seed_of

__all__ = ["Outcome", "Update"]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Outcome(NamedTuple):
    """What a step gave: the mean scalars of its batch, whether the weights moved, and what was wrong if not."""

    scalars: dict[str, float]
    moved: bool
    trouble: str | None = None


class Update:
    """A model with its optimiser (Adam; AdamW when `weight_decay` is set), loss scaler and averaged weights."""

    def __init__(self, model: Model, settings: Settings, *, group: Group, compile: bool = False) -> None:
        self.model, self.settings, self.group = model, settings, group
        self.named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.parameters = list(self.named.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=settings.precision == "fp16")
        self.loss = torch.compile(model.loss) if compile else model.loss
        group.share([*model.parameters(), *model.buffers()], step=0)
        self.average = Average(self.parameters, decay=settings.ema)

    def __call__(self, batch: Mapping[str, Tensor], step: int) -> Outcome:
        """Step number `step`, counted from 0: all randomness in it follows from the seed, the step and the rank."""
        torch.manual_seed(seed_of(self.settings.seed, step, self.group.rank))
        self.model.train()
        self.optimizer.zero_grad()
        parts = [self._backward(part) for part in self.group.parts(batch, self.settings.accumulate)]
        mean = self.group.mean(torch.stack([torch.stack(list(part.values())) for part in parts]).mean(0), step=step)
        scalars = dict(zip(parts[0], mean.tolist(), strict=True))
        if not math.isfinite(scalars["loss"]):
            return Outcome(scalars, False, f"the loss is {scalars['loss']}")
        return self._apply(scalars, step)

    def scalars(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's scalars of a batch on our device, in the precision of the run."""
        half = HALF.get(self.settings.precision)
        there = {name: value.to(self.group.device, non_blocking=True) for name, value in batch.items()}
        with self._autocast(half):
            return self.loss(there)

    def _autocast(self, half: torch.dtype | None) -> AbstractContextManager[Any]:
        return torch.autocast(self.group.device.type, dtype=half or torch.bfloat16, enabled=half is not None)

    def _backward(self, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add a part's share to the gradients."""
        scalars = self.scalars(part)
        self.scaler.scale(scalars["loss"] / self.settings.accumulate).backward()
        return {name: value.detach().float() for name, value in scalars.items()}

    def _apply(self, scalars: dict[str, float], step: int) -> Outcome:
        """Clip the gradients and move the weights and their average, unless the gradients are not finite."""
        self.group.average_gradients(self.parameters, step=step)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip or math.inf))
        scalars = {**scalars, "norm": norm, "lr": self.settings.lr_at(step)}
        if not math.isfinite(norm):
            # fp16 finds its scale by overflowing now and then; below 1 it is the gradients that are at fault
            searching = self.scaler.is_enabled() and self.scaler.get_scale() >= 1
            self.scaler.update()
            return Outcome(scalars, False, None if searching else f"the gradient norm is {norm}")
        for options in self.optimizer.param_groups:
            options["lr"] = scalars["lr"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(step)
        return Outcome(scalars, True)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        adam = {
            f"adam/{name}/{key}": value
            for name, weight in self.named.items()
            for key, value in self.optimizer.state[weight].items()
        }
        average = {f"average/{name}": value for name, value in zip(self.named, self.average.tensors, strict=True)}
        return {**{f"model/{name}": value for name, value in self.model.state_dict().items()}, **average, **adam}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of another run of the same model.

        Raises:
            WavegenError: they are of another shape or not the ones expected.
        """
        try:
            self.model.load_state_dict(_under("model/", tensors))
            average = _under("average/", tensors)
            for name, into in zip(self.named, self.average.tensors, strict=True):
                into.copy_(_shaped(average.pop(name), into.shape))
            for place, value in _under("adam/", tensors).items():
                name, key = place.rsplit("/", 1)
                weight = self.named[name]
                if key not in ("step", "exp_avg", "exp_avg_sq"):
                    raise KeyError(place)
                shape = torch.Size() if key == "step" else weight.shape
                self.optimizer.state[weight][key] = _shaped(value, shape).to(weight)
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise WavegenError(
                f"the checkpoint does not fit {type(self.model).__name__} ({reason}), expected its tensors; "
                "name another `out`"
            ) from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _shaped(value: Tensor, shape: torch.Size) -> Tensor:
    if value.shape != shape:
        raise RuntimeError(f"got shape {tuple(value.shape)} for {tuple(shape)}")
    return value
