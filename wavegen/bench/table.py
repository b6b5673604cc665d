"""The table of figures, each from processes of its own.

Torch's elementwise kernels are several times slower in some processes than in others, and machines are shared; ratios
are taken within one process.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError
from wavegen.vocoders.base import Vocoder
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.vocoders.wavenet import WaveNet

__all__ = ["MODELS", "bench"]

MODELS: dict[str, type[Vocoder]] = {"wavenet": WaveNet, "waveglow": WaveGlow}
QUICK = ("wavenet/edge", "wavenet/small", "wavenet/small-unconditional", "waveglow/edge", "waveglow/nvidia-256")
UNITS = {
    "kernel": "samples/s, a WaveNet's network alone, one stream, one thread; a WaveGlow's, all cores, in bfloat16",
    "plain": "samples/s, the same network in plain PyTorch: WaveNet a sample at a time, WaveGlow conv1d in float32",
    "ratio": "kernel / plain",
    "stream": "samples/s of `synthesize`, all included, one thread",
    "real time": "stream / rate",
    "batch 8": "samples/s of 8 streams together, one thread",
    "cores": "samples/s of one utterance on all cores; a WaveNet's in 8 folds",
    "cores real time": "cores / rate",
    "first chunk ms": "until the first sound of `stream`, compiled",
    "train": "samples/s of training steps, batch 8 x 5,120, bf16, all cores",
    "memory MB": "peak of the process",
}  # fmt: skip


def bench(presets: Sequence[str], *, seconds: float, repeats: int, output: Path | None) -> None:
    """Print a table of the figures of presets such as "wavenet/edge" (the usual ones, if none is named).

    Without names, the memory of `wavegen vocode` is measured too.

    Raises:
        WavegenError: no such preset.
    """
    known = [f"{name}/{preset}" for name, model in MODELS.items() for preset in model.presets]
    if unknown := set(presets) - set(known):
        raise WavegenError(f"got the presets {', '.join(sorted(unknown))}, expected some of {', '.join(known)}")
    jobs = [(mode, preset) for preset in presets or QUICK for mode in ("generation", "training")]
    jobs = [job for job in jobs if job != ("training", "waveglow/nvidia-256")]  # minutes of nothing to learn from
    if not presets:
        jobs += [("memory", f"{name}/edge {length}") for name in MODELS for length in ("10", "600")]
    found: dict[str, dict[str, float]] = {}
    for mode, what in tqdm(jobs, desc="bench", disable=None):
        runs = [_measured(mode, what, seconds) for _ in range(1 if mode == "memory" else repeats)]
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        found.setdefault(f"vocode, {what} s" if mode == "memory" else what, {}).update(median)
    print(f"{_machine()}; median of {repeats} processes\n")
    print(_table(found))
    print("\n".join(f"{name}: {meaning}" for name, meaning in UNITS.items()))
    if output:
        with write_aside(output) as aside:
            aside.write_text(json.dumps({"machine": _machine(), "figures": found}, indent=2))


def _measured(mode: str, what: str, seconds: float) -> dict[str, float]:
    """The figures of one fresh process."""
    command = [sys.executable, "-m", "wavegen.bench", mode, what, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = [f"exit code {done.returncode}", *done.stderr.strip().splitlines()][-1]
        raise WavegenError(f"measuring {mode} of {what} failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def _table(found: Mapping[str, Mapping[str, float]]) -> str:
    names = list(UNITS)
    rows = [["", *names], ["---", *("---:" for _ in names)]]
    for what, figures in found.items():
        rows.append([what, *(f"{figures[name]:,.4g}" if name in figures else "" for name in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _machine() -> str:
    """The processor, cores and software that the figures hold for."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    name = ", ".join(sorted(models)) or platform.processor()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
