"""The figures of one fresh process, as JSON: python -m wavegen.bench MODE WHAT SECONDS."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.files import write
from wavegen.bench.plain import plain_decode, plain_loop
from wavegen.bench.table import MODELS
from wavegen.training.memory import keep_memory
from wavegen.vocoders import incremental
from wavegen.vocoders.base import Vocoder
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.vocoders.wavenet import WaveNet

CORES = os.cpu_count() or 1


def rate_of(make: Callable[[], int], *, tries: int = 3) -> float:
    """Samples a second of the fastest of several calls, after one that compiles."""
    make()
    best = 0.0
    for _ in range(tries):
        began = time.perf_counter()
        best = max(best, make() / (time.perf_counter() - began))
    return best


def generation(what: str, seconds: float) -> dict[str, float]:
    """How fast sound is made, of so many seconds at a time."""
    torch.set_num_threads(1)
    net = network(what)
    rate, frames = net.mel.rate, max(int(seconds * net.mel.rate / net.mel.hop), 2)
    mel = torch.randn(1, net.mel.bins, frames) * net.mel_std + net.mel_mean
    found = of_wavenet(net, mel) if isinstance(net, WaveNet) else of_waveglow(net, mel)
    stream = rate_of(lambda: net.synthesize(mel, seed=0).numel())
    if "cores" not in found:  # a margin of a second on either side makes short pieces slow
        return found | {"stream": stream, "real time": stream / rate}
    batch = rate_of(lambda: net.synthesize(mel.expand(8, -1, -1), seed=0).numel(), tries=1)
    return found | {
        "stream": stream, "real time": stream / rate, "batch 8": batch,
        "cores real time": found["cores"] / rate, "first chunk ms": first_chunk(net, mel),
    }  # fmt: skip


def of_wavenet(net: WaveNet, mel: Float[Tensor, "1 M F"]) -> dict[str, float]:
    """Its kernel against the plain loop, and one long utterance in folds."""
    long = mel.repeat(1, 1, 8)
    kernel = rate_of(lambda: kernel_samples(net, mel))
    plain = rate_of(lambda: plain_loop(net, steps=max(int(100 / net.block), 8)), tries=2)
    cores = rate_of(lambda: net.synthesize(long, seed=0, folds=8, threads=CORES).numel(), tries=2)
    return {"kernel": kernel, "plain": plain, "ratio": kernel / plain, "cores": cores}


def of_waveglow(net: WaveGlow, mel: Float[Tensor, "1 M F"]) -> dict[str, float]:
    """Its flow against the plain one, and one long utterance in chunks."""
    long, z = mel.repeat(1, 1, 20), torch.randn(1, net.group, mel.shape[-1] * net.mel.hop // net.group)

    @torch.no_grad()
    def decoded() -> int:
        with torch.autocast("cpu", torch.bfloat16):
            return net.decode(z, mel).numel()

    torch.set_num_threads(CORES)
    found = {"kernel": rate_of(decoded)}
    if not net.separable:
        found["plain"] = rate_of(lambda: plain_decode(net, z, mel).numel())
        found["ratio"] = found["kernel"] / found["plain"]
    torch.set_num_threads(1)
    if net.margin < 32:
        found["cores"] = rate_of(lambda: net.synthesize(long, seed=0, threads=CORES).numel())
    return found


def network(what: str) -> WaveNet | WaveGlow:
    """A network with random weights everywhere, also in the layers that start at zero."""
    torch.manual_seed(0)
    name, preset = what.split("/")
    net = MODELS[name].preset(preset).eval()
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear) and not layer.weight.any():
            torch.nn.init.normal_(layer.weight, std=0.01)
    assert isinstance(net, WaveNet | WaveGlow)
    return net


def kernel_samples(net: WaveNet, mel: Float[Tensor, "1 M F"]) -> int:
    """Run the network over a mel whose conditioning is one constant step, so that only the loop is timed."""
    steps = mel.shape[-1] * net.mel.hop // net.block
    weights, state = incremental.pack(net), incremental.start(net, 1)
    constant = np.zeros((1, 1, net.layers, 2 * net.gate), np.float32)
    noise = net.sample_law.noise((steps, 1, net.block)).numpy()
    return incremental.run(net, weights, state, constant, noise, 1.0)[0].size


def first_chunk(net: Vocoder, mel: Float[Tensor, "1 M F"]) -> float:
    """Milliseconds until a stream speaks."""

    def first() -> None:
        next(iter(net.stream(mel[0].split(1, dim=-1), seed=0)))

    first()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        first()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def training(what: str, seconds: float) -> dict[str, float]:
    """How fast a model learns."""
    keep_memory()  # as `fit` does
    net = network(what).train()
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

    rate = rate_of(step, tries=max(int(6 * seconds), 3))
    return {"train": rate, "memory MB": peak(resource.RUSAGE_SELF)}


def memory(what: str, _: float) -> dict[str, float]:
    """The peak memory of the command `wavegen vocode` on a recording of so many seconds, with random weights."""
    preset, length = what.split()
    with tempfile.TemporaryDirectory() as folder:
        source, net = Path(folder, "in.flac"), network(preset)
        net.save(Path(folder, "net.safetensors"))
        write(source, torch.rand(int(length) * net.mel.rate) * 0.2 - 0.1, net.mel.rate)
        command = ["vocode", source, "-o", Path(folder, "out.wav"), "--vocoder", Path(folder, "net.safetensors")]
        subprocess.run([sys.executable, "-m", "wavegen", *command], check=True, capture_output=True)
        return {"memory MB": peak(resource.RUSAGE_CHILDREN)}


def peak(who: int) -> float:
    """Megabytes that a process has held at most."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    MODES: dict[str, Callable[[str, float], dict[str, float]]] = {
        "generation": generation, "training": training, "memory": memory,
    }  # fmt: skip
    print(json.dumps(MODES[sys.argv[1]](sys.argv[2], float(sys.argv[3]))))
