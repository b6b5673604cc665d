"""What a run tells: `log.jsonl`, TensorBoard where it is installed, and a progress bar."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError

__all__ = ["Log"]


class Log:
    """The log of the steps after `start` in `folder`; lines past `start`, of steps that were lost, are dropped.

    A line of `log.jsonl` is {"step": N, "train/loss": ..., ...} or {"step": N, "valid/loss": ...}, N steps done;
    TensorBoard has the same names. Not finite numbers are null.
    """

    def __init__(self, folder: Path, *, start: int, steps: int) -> None:
        path = folder / "log.jsonl"
        _keep_until(path, start)
        try:
            self.file = path.open("a", buffering=1)
        except OSError as error:
            raise WavegenError(f"cannot write {path}: {error.strerror}; name a writable folder as `out`") from error
        self.board = _board(folder / "tensorboard", start)
        self.bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=None
        )  # None: on a terminal
        self.since, self.samples = time.monotonic(), 0

    def close(self) -> None:
        """Finish the bar and the files."""
        self.bar.close()
        self.file.close()
        if self.board:
            self.board.close()

    def advance(self, scalars: Mapping[str, float], *, samples: int) -> None:
        """Move the bar by a step that took in so many samples."""
        self.samples += samples
        self.bar.set_postfix(
            {"loss": f"{scalars['loss']:.4g}", "lr": f"{scalars.get('lr', math.nan):.2g}"}
            | {"samples/s": f"{self.speed:,.0f}"},
            refresh=False,
        )
        self.bar.update()

    @property
    def speed(self) -> float:
        """Samples per second since the last line of training."""
        return self.samples / max(1e-9, time.monotonic() - self.since)

    def train(self, step: int, scalars: Mapping[str, float]) -> None:
        """A line of training, with the speed since the last one."""
        self.write(step, {f"train/{name}": value for name, value in {**scalars, "samples/s": self.speed}.items()})
        self.since, self.samples = time.monotonic(), 0

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """A line of any scalars, or words."""
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        try:
            line = {
                name: None if name in numbers and not math.isfinite(value) else value for name, value in values.items()
            }
            self.file.write(json.dumps({"step": step, **line}) + "\n")
        except OSError as error:
            raise WavegenError(f"cannot write {self.file.name}: {error.strerror}; free some space") from error
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def preview(self, step: int, sounds: Mapping[str, tuple[Float[Tensor, " T"], int]]) -> None:
        """Sounds with their rates, and pictures of their spectrograms, for TensorBoard."""
        for name, (wav, rate) in sounds.items():
            wav = wav.detach().float().cpu()
            self.board.add_audio(name, wav, step, rate)
            self.board.add_figure(name, _spectrogram(wav.numpy(), rate), step)


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps past `step`, and a last line that was cut off."""
    kept = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
    with write_aside(path) as aside:
        aside.write_text("".join(kept))


def _board(folder: Path, start: int) -> Any:
    """A TensorBoard writer that hides what an earlier run wrote past `start`, or None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=start + 1)


def _spectrogram(wav: Float[np.ndarray, " T"], rate: int) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds", ylabel="Hz")
    with np.errstate(divide="ignore"):  # silence
        axes.specgram(wav, NFFT=1024, noverlap=768, Fs=rate, vmin=-160)
    return figure
