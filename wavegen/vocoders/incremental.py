"""Sound from a WaveNet, sample by sample: offline, streamed, many at once, or one long utterance folded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from wavegen.audio import mulaw
from wavegen.distributions import MuLaw
from wavegen.kernels.wavenet import State, Weights, generate
from wavegen.vocoders.pieces import Draw, Progress, Window, finished, windows

if TYPE_CHECKING:
    from wavegen.vocoders.wavenet import WaveNet

__all__ = ["fold", "join", "pack", "pieces", "run", "start", "streams"]

POLISHED = (8, 16, 32)  # frames of the chunks that are polished, which need eight more
CHUNK = 8  # frames; 93 ms at 22,050 Hz: what a stream waits for, and how often Ctrl-C is heard


def pack(net: WaveNet, *, bfloat16: bool = True) -> Weights:
    """The weights as the kernel reads them."""

    def plain(x: Tensor) -> np.ndarray:
        return np.ascontiguousarray(x.detach().cpu().float().numpy())

    def matrix(x: Tensor) -> np.ndarray:  # (..., inputs, outputs)
        x = x.detach().cpu().float().contiguous()
        return x.bfloat16().view(torch.uint16).numpy() if bfloat16 else x.numpy()

    stack, half = net.stack, math.sqrt(0.5)
    residual = functional.pad(stack.residual * half, (0, 0, 0, 0, 0, 1))  # the last layer's goes nowhere
    skip = stack.skip.weight.T.unflatten(0, (net.layers, -1))
    bias = functional.pad(stack.residual_bias * half, (0, 0, 0, 1))
    return Weights(
        front=plain(net.front),
        front_bias=plain(net.front_bias),
        gate=matrix(stack.gate.flatten(1, 2)),
        outward=matrix(torch.cat([skip, residual], dim=-1)),
        residual_bias=plain(bias),
        skip_bias=plain(stack.skip.bias),
        head=matrix(net.hidden.weight.T),
        head_bias=plain(net.hidden.bias),
        out=matrix(net.out.weight.T),
        out_bias=plain(net.out.bias),
        dilations=np.asarray(net.dilations, np.int64),
    )


def start(net: WaveNet, batch: int) -> State:
    """The state of streams that have heard only silence, as a training segment has."""
    slots = (net.kernel - 1) * sum(net.dilations)
    silence = net.sample_law.encode(torch.zeros(1)).item() if isinstance(net.sample_law, MuLaw) else 0.0
    return State(
        rings=np.zeros((slots, batch, net.residual), np.float32),
        last=np.full((batch, net.block), silence, np.float32),
        step=np.zeros(1, np.int64),
    )


@torch.no_grad()
def condition(
    net: WaveNet, window: Float[Tensor, "1 M W"], style: Float[Tensor, "1 D"] | None
) -> Float[Tensor, "N L G"]:
    """What conditioning and biases add to the gates of every layer, for every step of a window.

    One step stands for all without mel conditioning. This is computed where the model is, all else on the CPU.
    """
    style = None if style is None else style.to(net.front)
    added = net.stack.condition(net.steps_condition(window.to(net.front)), style)
    return added[:, 0].unflatten(-1, (net.layers, -1)).detach().cpu()


def pieces(
    net: WaveNet,
    mels: Iterable[Float[Tensor, "B M _F"]],
    style: Float[Tensor, "B D"] | None,
    draw: Draw,
) -> Iterator[Float[Tensor, "B _T"]]:
    """Sound in chunks for mels in pieces of any length. Every item of a batch draws the noise that it would alone."""

    def chunks(mels: Iterable[Tensor]) -> Iterator[tuple[Tensor, Window]]:
        return network_pieces(net, mels, style, draw)

    return finished(chunks, mels, net.mel, order=net.order, polish=net.polish, sizes=POLISHED)


def network_pieces(
    net: WaveNet,
    mels: Iterable[Float[Tensor, "B M _F"]],
    style: Float[Tensor, "B D"] | None,
    draw: Draw,
) -> Iterator[tuple[Float[Tensor, "B _T"], Window]]:
    """What the network itself says, chunk by chunk."""
    weights, law, generator = pack(net, bfloat16=draw.bfloat16), net.sample_law, Generator().manual_seed(draw.seed)
    state = None
    per_frame = net.mel.hop // net.block
    for window in windows(mels, net.margin, (CHUNK,)):
        batch, kept, steps = len(window.mel), window.own(per_frame), window.count * per_frame
        state = start(net, batch) if state is None else state
        added = [
            condition(net, window.mel[b : b + 1], None if style is None else style[b : b + 1]) for b in range(batch)
        ]
        gates = torch.stack([a[kept] if len(a) > 1 else a for a in added], dim=1).numpy()
        noise = law.noise((steps, 1, net.block), generator).expand(-1, batch, -1, -1).contiguous().numpy()
        made, state = run(net, weights, state, gates, noise, draw.temperature)
        yield torch.from_numpy(made), window


def run(
    net: WaveNet, weights: Weights, state: State, gates: np.ndarray, noise: np.ndarray, temperature: float
) -> tuple[np.ndarray, State]:
    """So many steps of the kernel as there is noise for (see `kernels.wavenet.generate`)."""
    components = 0 if isinstance(net.sample_law, MuLaw) else net.components
    floor, heat = np.float32(net.log_scale_min), np.float32(temperature)
    return generate(weights, state, gates, noise, components, floor, heat, mulaw.levels(net.classes).numpy())


def streams(
    net: WaveNet,
    mel: Float[Tensor, "B M F"],
    style: Float[Tensor, "B D"] | None,
    draw: Draw,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Float[Tensor, "B T"]:
    """A batch of mels to sound, its items shared out among threads."""
    groups = torch.arange(len(mel)).tensor_split(min(threads, len(mel)))
    stop = Event()

    def run(group: Tensor) -> Tensor:
        one_style = None if style is None else style[group]
        made = []
        for piece in pieces(net, [mel[group]], one_style, draw):
            made.append(piece)
            if progress is not None:
                progress(piece.numel())
            if stop.is_set():
                break
        return torch.cat(made, dim=1)

    if len(groups) == 1:
        return run(groups[0])
    with ThreadPoolExecutor(len(groups)) as pool:
        try:
            return torch.cat(list(pool.map(run, groups)))
        except BaseException:  # Ctrl-C reaches this thread; the others stop at their next chunk
            stop.set()
            raise


def fold(mel: Float[Tensor, "1 M F"], folds: int, warm: int) -> tuple[Float[Tensor, "K M W"], list[tuple[int, int]]]:
    """Cut one long mel at its quietest frames near equal parts into overlapping segments of one length.

    Every segment starts `warm` frames early, to fill the receptive field, and reaches one frame into the next. Returns
    the segments, and for each the frames [from, to) of itself that are its part, without the frame of overlap.
    """
    frames = mel.shape[-1]
    loudness = mel[0].mean(0)
    cuts = [0]
    for k in range(1, folds):
        middle, reach = k * frames // folds, frames // (4 * folds)
        near = loudness[middle - reach : middle + reach + 1]
        cuts.append(middle - reach + int(near.argmin()))
    cuts.append(frames)
    starts = [max(cut - warm, 0) for cut in cuts[:-1]]
    length = max(min(end + 1, frames) - begin for begin, end in zip(starts, cuts[1:], strict=True))
    padded = functional.pad(mel, (0, length), mode="replicate")
    segments = torch.cat([padded[..., begin : begin + length] for begin in starts])
    return segments, [(cut - begin, end - begin) for begin, cut, end in zip(starts, cuts, cuts[1:], strict=False)]


def join(wavs: Float[Tensor, "K W"], parts: list[tuple[int, int]], hop: int) -> Float[Tensor, "1 T"]:
    """Segments made by `fold`, cross-faded over one frame at equal power."""
    angle = (torch.arange(hop) + 0.5) * (math.pi / 2 / hop)
    made = []
    for k, (wav, (begin, end)) in enumerate(zip(wavs, parts, strict=True)):
        own = wav[begin * hop : end * hop].clone()
        if k:
            ending = wavs[k - 1][parts[k - 1][1] * hop :][:hop]
            own[:hop] = own[:hop] * angle.sin() + ending * angle.cos()
        made.append(own)
    return torch.cat(made).clamp(-1, 1).unsqueeze(0)  # two loud sounds may add up to more
