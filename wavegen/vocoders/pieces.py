"""What every vocoder does to make sound piece by piece: cut mels into windows, filter, polish, use several cores.

Mels are cut into chunks of fixed sizes however they arrive, and a chunk of sound is computed from its frames and a
margin of their neighbours; so a stream and an offline run do the very same arithmetic.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.griffin_lim import agree
from wavegen.audio.lpc import linear_prediction
from wavegen.audio.mel import MelSpec
from wavegen.kernels.wavenet import filter_all_pole

__all__ = ["Draw", "Sizes", "Window", "finished", "windows", "workers"]

Progress = Callable[[int], None]  # called with how many more samples were made
Across = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # `map`, or something like it
Sizes = tuple[int, ...]  # frames of the first chunks; the last of them goes on for ever

POLISH_MARGIN = 8  # frames; of what lies further off, polishing is not told


class Draw(NamedTuple):
    """What is left open once the model and the mel are given."""

    seed: int
    temperature: float = 1.0
    bfloat16: bool = True  # weights rounded to half their size, which is faster


class Window(NamedTuple):
    """A chunk of frames with some on either side: `mel[..., before : before + count]` are its own."""

    mel: Float[Tensor, "B M W"]
    before: int
    count: int

    def own(self, rate: int) -> slice:
        """The chunk's share of what has `rate` steps for each frame of the window."""
        return slice(self.before * rate, (self.before + self.count) * rate)

    def within(self, margin: int) -> "Window":
        """The same chunk with no more than so many frames on either side."""
        before = min(self.before, margin)
        first = self.before - before
        return Window(self.mel[..., first : self.before + self.count + margin], before, self.count)


def windows(mels: Iterable[Float[Tensor, "B M _F"]], margin: int, sizes: Sizes) -> Iterator[Window]:
    """Every chunk (the last may be shorter than its size) with up to `margin` frames on either side."""
    held: Tensor | None = None
    before = 0
    coming = itertools.chain(sizes, itertools.repeat(sizes[-1]))
    size = next(coming)
    for mel in itertools.chain(mels, [None]):
        if mel is not None:
            held = mel if held is None else torch.cat([held, mel], dim=-1)
        while held is not None and held.shape[-1] > before:
            left = held.shape[-1] - before
            if mel is not None and left < size + margin:
                break  # more is needed on the right
            count = min(size, left)
            yield Window(held[..., : before + count + margin], before, count)
            drop = max(before + count - margin, 0)
            held, before, size = held[..., drop:], before + count - drop, next(coming)


@contextmanager
def workers(threads: int) -> Iterator[Across]:
    """What works like `map`, in order and as its results are asked for, but with so many threads a little ahead."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:

        def ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            running: deque[Future[Any]] = deque()
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

        try:
            yield ahead
        except BaseException:  # Ctrl-C: what has begun ends, the rest does not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def finished(
    network: Callable[[Iterable[Float[Tensor, "B M _F"]]], Iterator[tuple[Float[Tensor, "B _T"], Window]]],
    mels: Iterable[Float[Tensor, "B M _F"]],
    spec: MelSpec,
    *,
    order: int,
    polish: int,
    sizes: Sizes,
    across: Across = map,
) -> Iterator[Float[Tensor, "B _T"]]:
    """What a network makes of mels, chunk by chunk, filtered if `order`, polished so many times, within [-1, 1]."""
    mels, again = itertools.tee(mels) if polish else (mels, ())
    made = network(mels)
    wavs = coloured(made, spec, order) if order else (wav for wav, _ in made)
    if polish:
        wavs = polished(wavs, again, spec, iterations=polish, sizes=sizes, across=across)
    yield from (wav.clamp(-1, 1) for wav in wavs)


def coloured(
    made: Iterable[tuple[Float[Tensor, "B _T"], Window]], spec: MelSpec, order: int
) -> Iterator[Float[Tensor, "B _T"]]:
    """Excitation to sound, chunk by chunk, by the linear prediction of each chunk's mel."""
    past: np.ndarray | None = None
    for excitation, window in made:
        near = window.within(1)  # filters are interpolated between neighbouring frames
        found = [linear_prediction(item.unsqueeze(0), spec, order) for item in near.mel]
        kept = near.own(found[0][1].shape[1] // near.mel.shape[-1])
        coefficients = np.concatenate([a[:, kept].numpy() for a, _ in found])
        gain = np.concatenate([g[:, kept].numpy() for _, g in found])
        past = np.zeros((len(excitation), order)) if past is None else past
        wav, past = filter_all_pole(excitation.numpy(), coefficients, gain, past)
        yield torch.from_numpy(wav)


def polished(
    raw: Iterator[Float[Tensor, "B _T"]],
    mels: Iterable[Float[Tensor, "B M _F"]],
    spec: MelSpec,
    *,
    iterations: int,
    sizes: Sizes,
    across: Across = map,
) -> Iterator[Float[Tensor, "B _T"]]:
    """The sound, brought closer to the mel asked for by `iterations` projections (see `audio.griffin_lim.agree`)."""

    def jobs() -> Iterator[tuple[Tensor, Window]]:
        held = None
        for window in windows(mels, POLISH_MARGIN, sizes):
            samples = window.mel.shape[-1] * spec.hop
            while held is None or held.shape[-1] < samples:
                made = next(raw)
                held = made if held is None else torch.cat([held, made], dim=-1)
            yield held[:, :samples], window
            held = held[:, max(window.before + window.count - POLISH_MARGIN, 0) * spec.hop :]

    def polish(job: tuple[Tensor, Window]) -> Tensor:
        wav, window = job
        items = zip(wav.split(1), window.mel.split(1), strict=True)
        return torch.cat([agree(*item, spec, iterations=iterations)[:, window.own(spec.hop)] for item in items])

    yield from across(polish, jobs())
