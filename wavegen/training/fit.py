"""The one training loop, for any model, on a CPU, a GPU, or many under torchrun.

It stands on plain torch.distributed rather than Lightning Fabric, because that adds no dependency and what it has to
do, one all-reduce a step, is short enough to read.
"""

import importlib.metadata
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError
from wavegen.model import Model
from wavegen.training.checkpoint import newest_checkpoint, write_checkpoint
from wavegen.training.group import joined
from wavegen.training.log import Log
from wavegen.training.memory import keep_memory
from wavegen.training.settings import Settings, seed_of
from wavegen.training.stop import Stop, obey, signals_noted
from wavegen.training.update import Outcome, Update

__all__ = ["fit"]

Batch = Mapping[str, Tensor]
Preview = Callable[[Model], Mapping[str, tuple[Float[Tensor, " T"], int]]]

# what write_aside, and safetensors below it, leave behind when they are killed
LEFTOVER = re.compile(r"\.(checkpoint-\d+|last|best|log)-\w{8}\.(safetensors|jsonl)|\.tmp\w{6}")
PATIENCE = 3  # steps in a row that may be skipped
PROGRESS = ("step", "samples", "seconds", "best", "skipped")
SPENT = 1  # why we stopped: the hours are over; any other number is a signal's


def fit(
    model: Model,
    batch_at: Callable[[int], Batch],
    *,
    out: Path | str,
    steps: int,
    lr: float,
    valid: Sequence[Batch] = (),
    every: int = 1000,
    log_every: int = 100,
    clip: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    accumulate: int = 1,
    warmup: int = 0,
    decay: str | int = "constant",
    final: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    ema: float = 0.999,
    compile: bool = False,
    hours: float | None = None,
    resume: bool = True,
    preview: Preview | None = None,
) -> None:
    """Train `model` on `batch_at(0), batch_at(1), ...`, resuming what `out` holds; it ends with the averaged weights.

    A batch is whole: torchrun's processes deal its items among themselves (LOCAL_RANK chooses the GPU), so two
    processes do what one does. `batch_at` must depend on nothing but the step, and a model must draw its noise from
    torch: then a resumed run equals one that never stopped, bit for bit on a CPU.

    Every `every` steps, `out` gets `last.safetensors` and, at the lowest validation loss, `best.safetensors` (models
    with averaged weights, for `Model.load`) and a checkpoint (the two newest are kept); `log.jsonl` tells the rest.
    A step whose loss or gradient is not finite is skipped and its batch kept in `out/bad`.

    Args:
        valid: batches whose mean loss, by the averaged weights and the same noise every time, is the score.
        clip: largest gradient norm; 0 for none.
        precision: "fp32"; or "bf16" or "fp16", for what autocast computes in them.
        accumulate: parts a batch is computed in, to save memory.
        warmup, decay, final: the learning rate, see `lr_at`.
        weight_decay: Adam becomes AdamW.
        ema: decay of the averaged weights; 0 for none.
        hours: stop after so much wall time in this call, with a checkpoint.
        resume: False refuses an `out` that holds a run.
        preview: sounds with their rates, made by the averaged weights at each validation, for TensorBoard.

    Raises:
        WavegenError: an argument out of range, a batch that cannot be shared, `out` holds the run of another model,
            a folder that cannot be written, three steps in a row that are not finite, or a process that is lost.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, once the step is done and a checkpoint written.
    """
    settings = Settings(steps, lr, seed, clip, precision, accumulate, warmup, decay, final, betas, weight_decay, ema)
    limit = math.inf if hours is None else 3600 * hours
    if not (every >= 1 and log_every >= 1 and limit > 0):
        raise WavegenError(f"got every={every}, log_every={log_every}, hours={hours}, expected steps and hours above 0")
    keep_memory()
    with joined(device) as group, _random_state(group.device), signals_noted() as stop:
        update = Update(model.to(group.device), settings, group=group, compile=compile)
        run = _Run(update, Path(out), valid=valid, every=every, log_every=log_every, preview=preview)
        run.begin(resume=resume)
        with closing(Log(run.folder, start=run.step, steps=steps)) if group.rank == 0 else nullcontext() as log:
            reason = run.train(batch_at, log, stop=stop, deadline=time.monotonic() + limit)
        update.average.into_model()
        model.eval()
    obey(reason)


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Within, torch's random numbers are ours to seed; afterwards they go on where they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@dataclass
class _Run:
    """A run in its folder; the numbers are how far it has come, and are kept in its checkpoints."""

    update: Update
    folder: Path
    valid: Sequence[Batch]
    every: int
    log_every: int
    preview: Preview | None
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    best: float | None = None
    skipped: int = 0  # in a row

    def begin(self, *, resume: bool) -> None:
        """Take up the run that the folder holds, if any."""
        found = newest_checkpoint(self.folder)
        if found and not resume:
            raise WavegenError(f"{self.folder} holds a run, expected none; resume it, or name an empty folder as `out`")
        if found:
            tensors, header = found
            self._same_run(header)
            self.update.load(tensors)
            if header["scaler"]:  # empty after a run that was not in fp16
                self.update.scaler.load_state_dict(header["scaler"])
            self._take_up(header["progress"])
        group = self.update.group
        if group.largest(self.step, step=self.step) != -group.largest(-self.step, step=self.step):
            raise WavegenError(f"the processes found different checkpoints in {self.folder}; name a folder they share")
        if group.rank == 0:
            for left in self.folder.glob(".*"):  # half-written when a run was killed
                if LEFTOVER.fullmatch(left.name):
                    left.unlink(missing_ok=True)

    def _take_up(self, progress: Mapping[str, Any]) -> None:
        for name in PROGRESS:
            value = progress.get(name)
            if type(value) not in (int, float) and not (name == "best" and value is None):
                raise WavegenError(
                    f"the checkpoint in {self.folder} says {name}={value!r}, expected a number; remove it"
                )
            setattr(self, name, value)

    def _same_run(self, header: Mapping[str, Any]) -> None:
        """Refuse to resume another model or other data; warn of any other change."""
        mine = self._header()
        for what in ("class", "config"):
            if differing := _differing(header[what], mine[what]):
                raise WavegenError(f"{self.folder} holds the run of another model ({differing}); name another `out`")
        if differing := _differing(header["settings"], mine["settings"]):
            if header["settings"].get("seed") != mine["settings"]["seed"]:
                raise WavegenError(f"{self.folder} holds a run of another seed ({differing}); name another `out`")
            warnings.warn(f"resuming {self.folder} with other settings: {differing}", stacklevel=4)

    def train(self, batch_at: Callable[[int], Batch], log: Log | None, *, stop: Stop, deadline: float) -> int:
        """Step until the end, the deadline or a signal; the answer is why."""
        steps, group, reason = self.update.settings.steps, self.update.group, 0
        while self.step < steps and not reason:
            began = time.monotonic()
            batch = batch_at(self.step)
            outcome = self.update(batch, self.step)
            self.step += 1
            self._count(batch, outcome, log)
            reason = group.largest(stop.number or SPENT * (time.monotonic() > deadline), step=self.step)
            self.seconds += time.monotonic() - began
            if reason or self.step == steps or self.step % self.every == 0:
                self._mark(log, scored=not reason)
        return reason

    def _count(self, batch: Batch, outcome: Outcome, log: Log | None) -> None:
        """Book a step, and give up after too many bad ones."""
        size = batch["wav"].numel() if "wav" in batch else max(len(value) for value in batch.values() if value.ndim)
        self.samples += size
        self.skipped = self.skipped + 1 if outcome.trouble else 0
        if log:
            log.advance(outcome.scalars, samples=size)
            if outcome.trouble:
                self._keep_batch(batch, outcome.trouble)
                log.write(self.step, {"skipped": outcome.trouble})
            elif self.step % self.log_every == 0 or self.step == self.update.settings.steps:
                log.train(self.step, outcome.scalars)
        if self.skipped >= PATIENCE:
            raise WavegenError(
                f"{self.skipped} steps in a row were not finite, the last at step {self.step} ({outcome.trouble}), "
                f"expected finite numbers; look for NaN or silence in {self.folder / 'bad'}, lower `lr` or raise "
                "`warmup`, use bf16 or fp32 for fp16, then run again to resume from the last checkpoint"
            )

    def _keep_batch(self, batch: Batch, trouble: str) -> None:
        kept = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in batch.items()}
        with write_aside(self.folder / "bad" / f"step-{self.step - 1}.safetensors") as aside:
            save_file(kept, aside, metadata={"trouble": trouble})

    def _mark(self, log: Log | None, *, scored: bool) -> None:
        """Validate, export and write a checkpoint, in this order: a run killed in between does all of it again."""
        with self.update.average.swapped_in():
            scores = self._validate() if scored and len(self.valid) else {}
            better = bool(scores) and scores["loss"] < (math.inf if self.best is None else self.best)
            self.best = scores["loss"] if better else self.best
            if log:
                notes = {"steps": self.step, "hours": self.seconds / 3600, "samples": self.samples, "valid": scores}
                for name in ["last", "best"] if better else ["last"]:
                    self.update.model.save(self.folder / f"{name}.safetensors", notes=notes)
                if scores:
                    log.write(self.step, {f"valid/{name}": value for name, value in scores.items()})
                if scored and self.preview and log.board:
                    with _listening(self.update, "preview"):
                        log.preview(self.step, self.preview(self.update.model))
        if log:
            write_checkpoint(self.folder, self.step, tensors=self.update.tensors(), header=self._header())

    def _validate(self) -> dict[str, float]:
        """The mean scalars of the validation batches, which the processes deal among themselves."""
        group = self.update.group
        mine = range(group.rank, len(self.valid), group.world)
        rows, names = [], []
        for index in mine or range(1):  # a process without a batch computes one for its names, and counts it as nothing
            with _listening(self.update, index):
                scalars = self.update.scalars(self.valid[index])
            names = list(scalars)
            rows.append(torch.stack([value.float() for value in scalars.values()]))
        total = torch.stack(rows).sum(0) * bool(mine)
        *sums, count = group.mean(torch.cat([total, total.new_tensor([len(mine)])]), step=self.step).tolist()
        return {name: value / count for name, value in zip(names, sums, strict=True)}

    def _header(self) -> dict[str, Any]:
        model = self.update.model
        header = {
            "class": {"name": f"{type(model).__module__}:{type(model).__qualname__}"},
            "config": model.config,
            "settings": asdict(self.update.settings),
            "progress": {name: getattr(self, name) for name in PROGRESS},
            "scaler": self.update.scaler.state_dict(),
            "version": importlib.metadata.version("wavegen"),
        }
        return json.loads(json.dumps(header))  # as a file gives it back, where tuples are lists


@contextmanager
def _listening(update: Update, place: object) -> Iterator[None]:
    """Within, the model is evaluated, and draws the same noise each time at the same place."""
    torch.manual_seed(seed_of(update.settings.seed, "valid", place))
    update.model.eval()
    with torch.no_grad():
        yield


def _differing(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """The fields that differ, with both values."""
    names = sorted(name for name in {*theirs, *mine} if theirs.get(name) != mine.get(name))
    return ", ".join(f"{name} was {theirs.get(name)!r} and is {mine.get(name)!r}" for name in names)
