"""Speed and memory on this machine: every figure from processes of its own, the median of several.

Torch's elementwise kernels are several times slower in some processes than in others, and machines are shared; ratios
are taken within one process.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from wavegen.atomic import write_aside
from wavegen.audio.files import write
from wavegen.errors import WavegenError
from wavegen.training.memory import keep_memory
from wavegen.vocoders import incremental
from wavegen.vocoders.wavenet import WaveNet

__all__ = ["bench", "plain_loop"]

QUICK = ("edge", "small", "small-unconditional")
UNITS = {
    "kernel": "samples/s, network alone, one stream, one thread",
    "plain": "samples/s, the same network in a plain PyTorch incremental loop, one thread",
    "ratio": "kernel / plain",
    "stream": "samples/s of `synthesize`, all included, one stream, one thread",
    "real time": "stream / rate",
    "batch 8": "samples/s of 8 streams together, one thread",
    "folded": "samples/s of one utterance in 8 folds on all cores",
    "folded real time": "folded / rate",
    "first chunk ms": "until the first sound of `stream`, compiled",
    "train": "samples/s of training steps, batch 8 x 5,120, bf16, all cores",
    "memory MB": "peak of the process",
}  # fmt: skip


def bench(presets: Sequence[str], *, seconds: float, repeats: int, output: Path | None) -> None:
    """Print a table of the figures of presets of WaveNet (all that are quick, if none is named), and of `vocode`.

    Raises:
        WavegenError: no such preset.
    """
    if unknown := set(presets) - set(WaveNet.presets):
        raise WavegenError(
            f"got the presets {', '.join(sorted(unknown))}, expected some of {', '.join(WaveNet.presets)}"
        )
    jobs = [(mode, preset) for preset in presets or QUICK for mode in ("generation", "training")]
    jobs += [("memory", length) for length in ("10", "600")] if not presets else []
    found: dict[str, dict[str, float]] = {}
    for mode, what in tqdm(jobs, desc="bench", disable=None):
        runs = [_measured(mode, what, seconds) for _ in range(1 if mode == "memory" else repeats)]
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        found.setdefault(f"vocode {what} s" if mode == "memory" else what, {}).update(median)
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
        raise WavegenError(f"measuring {mode} of {what} failed: {done.stderr.strip().splitlines()[-1]}")
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


def _rate_of(make: Callable[[], int], *, tries: int = 3) -> float:
    """Samples a second of the fastest of several calls, after one that compiles."""
    make()
    best = 0.0
    for _ in range(tries):
        began = time.perf_counter()
        best = max(best, make() / (time.perf_counter() - began))
    return best


def _generation(preset: str, seconds: float) -> dict[str, float]:
    torch.set_num_threads(1)
    net = _network(preset)
    rate, frames = net.mel.rate, max(int(seconds * net.mel.rate / net.mel.hop), 2)
    mel = torch.randn(1, net.mel.bins, frames) * net.mel_std + net.mel_mean
    kernel = _rate_of(lambda: _kernel_samples(net, mel))
    plain = _rate_of(lambda: plain_loop(net, steps=max(int(100 / net.block), 8)), tries=2)
    stream = _rate_of(lambda: net.synthesize(mel, seed=0).numel())
    batch = _rate_of(lambda: net.synthesize(mel.expand(8, -1, -1), seed=0).numel(), tries=1)
    long, cores = mel.repeat(1, 1, 8), os.cpu_count() or 1
    folded = _rate_of(lambda: net.synthesize(long, seed=0, folds=8, threads=cores).numel(), tries=2)
    return {
        "kernel": kernel, "plain": plain, "ratio": kernel / plain, "stream": stream, "real time": stream / rate,
        "batch 8": batch, "folded": folded, "folded real time": folded / rate, "first chunk ms": _first_chunk(net, mel),
    }  # fmt: skip


def _network(preset: str) -> WaveNet:
    """A network with random weights everywhere, also in the layers that start at zero."""
    torch.manual_seed(0)
    net = WaveNet.preset(preset).eval()
    torch.nn.init.normal_(net.out.weight, std=0.01)
    return net


def _kernel_samples(net: WaveNet, mel: Float[Tensor, "1 M F"]) -> int:
    """Run the network over a mel whose conditioning is one constant step, so that only the loop is timed."""
    steps = mel.shape[-1] * net.mel.hop // net.block
    weights, state = incremental.pack(net), incremental.start(net, 1)
    constant = np.zeros((1, 1, net.layers, 2 * net.gate), np.float32)
    noise = net.sample_law.noise((steps, 1, net.block)).numpy()
    return incremental.run(net, weights, state, constant, noise, 1.0)[0].size


def _first_chunk(net: WaveNet, mel: Float[Tensor, "1 M F"]) -> float:
    def first() -> None:
        next(iter(net.stream(mel[0].split(1, dim=-1), seed=0)))

    first()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        first()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


@torch.no_grad()
def plain_loop(net: WaveNet, *, steps: int) -> int:
    """Generate with torch operations and a queue for each layer, as WaveNets are usually run; returns the samples."""
    stack, width = net.stack, net.residual
    taps = [layer.reshape(-1, layer.shape[-1]).T.contiguous() for layer in stack.gate]
    biases = stack.gate_bias.unflatten(0, (net.layers, -1))
    skips = stack.skip.weight.chunk(net.layers, dim=1)
    queues = [torch.zeros(1, (net.kernel - 1) * d + 1, width) for d in net.dilations]
    last = torch.zeros(1, 1, net.block)
    for _ in range(steps):
        h, skip = net.embed(last)[0], stack.skip.bias
        for layer, (dilation, queue) in enumerate(zip(net.dilations, queues, strict=True)):
            queue[:, :-1] = queue[:, 1:].clone()
            queue[:, -1] = h
            z = torch.nn.functional.linear(queue[:, ::dilation].flatten(1), taps[layer], biases[layer])
            a, b = z.chunk(2, dim=-1)
            y = torch.tanh(a) * torch.sigmoid(b)
            skip = skip + torch.nn.functional.linear(y, skips[layer])
            if layer < len(stack.residual):
                h = (h + y @ stack.residual[layer] + stack.residual_bias[layer]) * 0.5**0.5
        params = net.out(torch.relu(net.hidden(torch.relu(skip))))
        own, links = params.split([net.block * net.sample_law.width, net.links], dim=-1)
        noise = net.sample_law.noise((1, net.block))
        drawn = net.sample_law.sample(own.unflatten(-1, (net.block, -1)), noise)
        for p in range(1, net.block if net.links else 0):
            first = p * (p - 1) // 2
            drawn[:, p] += (links[:, first : first + p] * drawn[:, :p]).sum(-1)
        last = drawn.unsqueeze(0)
    return steps * net.block


def _training(preset: str, seconds: float) -> dict[str, float]:
    keep_memory()  # as `fit` does
    net = _network(preset).train()
    hop = net.mel.hop
    frames = round(5120 / hop)
    batch = {"wav": torch.randn(8, frames * hop) * 0.05, "mel": torch.randn(8, net.mel.bins, frames) - 5}
    adam = torch.optim.Adam(net.parameters(), fused=True)

    def step() -> int:
        with torch.autocast("cpu", torch.bfloat16):
            loss = net.loss(batch)["loss"]
        loss.backward()
        adam.step()
        adam.zero_grad()
        return batch["wav"].numel()

    rate = _rate_of(step, tries=max(int(6 * seconds), 3))
    return {"train": rate, "memory MB": _peak(resource.RUSAGE_SELF)}


def _memory(length: str, _: float) -> dict[str, float]:
    """The peak memory of the command `wavegen vocode` on a recording of so many seconds, with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        source, net = Path(folder, "in.flac"), _network("edge")
        net.save(Path(folder, "net.safetensors"))
        write(source, torch.rand(int(length) * net.mel.rate) * 0.2 - 0.1, net.mel.rate)
        command = ["vocode", source, "-o", Path(folder, "out.wav"), "--vocoder", Path(folder, "net.safetensors")]
        subprocess.run([sys.executable, "-m", "wavegen", *command], check=True, capture_output=True)
        return {"memory MB": _peak(resource.RUSAGE_CHILDREN)}


def _peak(who: int) -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    MODES: dict[str, Callable[[str, float], dict[str, float]]] = {
        "generation": _generation, "training": _training, "memory": _memory,
    }  # fmt: skip
    print(json.dumps(MODES[sys.argv[1]](sys.argv[2], float(sys.argv[3]))))
