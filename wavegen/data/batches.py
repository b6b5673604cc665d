"""Batches for training, each a pure function of (seed, step), and the threads that compute them ahead."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Float32, Int16, Int64
from torch import Tensor

from wavegen.audio.files import read
from wavegen.audio.mel import MelSpec
from wavegen.data.corpus import Corpus
from wavegen.data.epochs import Epochs
from wavegen.errors import WavegenError

__all__ = ["Batch", "Batches", "Prefetch", "validation"]

Batch = dict[str, Tensor]

# MP3 and OGG decode from the start: a seek changes what they decode to.
EXACT_SEEK = frozenset(("WAV", "WAVEX", "RF64", "FLAC", "AIFF", "W64", "AU", "CAF"))
LONGEST = 2**31  # samples, a day of speech: a header that promises more is broken


class Batches:
    """`batches(step)` is {"wav": (B, T), "mel": (B, M, F)}, and "style" (B, D) where `styles` gives a vector an id.

    T = `segment` = F * hop, and mel frame f belongs to samples f * hop to (f + 1) * hop of the same item; wav is in
    [-1, 1], decoded to 16 bits. The mel is that of the whole utterance, cut: no edge of a segment shows in it.

    An epoch draws every clip ceil(length / segment) times, in an order shuffled over the whole corpus; the draws of
    one clip spread over its length, one at random in each equal part, so over the epochs every start on a frame is
    equally likely. A clip shorter than the segment is padded with zeros at its end, and its mel is that of the padded
    sound. Batch `step` holds items step * batch to (step + 1) * batch of the endless sequence of epochs; of these,
    process `rank` of `world` gets the `rank`-th share, so all processes together see what one would.

    Decoded audio stays in memory as int16 up to `cache` bytes; what does not fit is read again from disk, where the
    format can seek only around the segment. Neither changes a bit of any batch.

    Raises:
        WavegenError: the corpus and `spec` differ in rate (unless `resample`), `segment` is not a multiple of the
            hop, `batch` does not split over `world`, a clip is unreadable, empty, truncated or has no style.
    """

    def __init__(
        self,
        corpus: Corpus,
        spec: MelSpec,
        *,
        batch: int,
        segment: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        resample: bool = False,
        styles: Mapping[str, Float[Tensor, " D"]] | None = None,
        cache: int = 1 << 30,
    ) -> None:
        if segment < 1 or segment % spec.hop:
            raise WavegenError(f"got a segment of {segment} samples, expected a multiple of the hop, {spec.hop}")
        if not resample and corpus.rate != spec.rate:
            raise WavegenError(
                f"{corpus.folder} is at {corpus.rate} Hz, the mel convention expects {spec.rate} Hz; "
                "resample the corpus, pass resample=True, or take a convention of its rate"
            )
        missing = [] if styles is None else [clip.id for clip in corpus if clip.id not in styles]
        if missing:
            raise WavegenError(f"no style for {len(missing)} clips, {missing[0]!r} first; give every id a vector")
        self.corpus, self.spec, self.batch, self.segment, self.styles = corpus, spec, batch, segment, styles
        self.lengths = _lengths(corpus, spec.rate)
        self.starts = np.maximum(self.lengths // spec.hop - segment // spec.hop, 0) + 1
        self.draws = -(-self.lengths // segment)
        self._first = np.cumsum(self.draws) - self.draws  # where the draws of each clip begin, unshuffled
        self._kept: dict[int, Int16[np.ndarray, " T"]] = {}
        self._room = cache
        self._epochs = Epochs(self.epoch, batch=batch, seed=seed, rank=rank, world=world)

    @property
    def epoch(self) -> int:
        """Items in an epoch, of all processes together."""
        return int(self.draws.sum())

    def __repr__(self) -> str:
        return f"Batches({self.corpus!r}, {self.batch} x {self.segment} samples, {self.epoch} items an epoch)"

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return self.collate([self._locate(*draw) for draw in self._epochs(step)])

    def draw(self, item: int) -> tuple[int, int]:
        """Which clip, and from which frame on, is item number `item` of the endless sequence."""
        return self._locate(*self._epochs.draw(item))

    def collate(self, draws: Sequence[tuple[int, int]]) -> Batch:
        """The batch of the given (clip, first frame) pairs."""
        wavs, mels = zip(*(self._cut(clip, frame) for clip, frame in draws), strict=True)
        batch = {"wav": torch.stack(wavs), "mel": torch.stack(mels)}
        if self.styles is not None:
            batch["style"] = torch.stack([self.styles[self.corpus[clip].id] for clip, _ in draws])
        return batch

    def _locate(self, slot: int, place: float) -> tuple[int, int]:
        """The clip a slot of the epoch belongs to, and the first frame at that place in its part of the clip."""
        clip = int(np.searchsorted(self._first, slot, side="right")) - 1
        part = (slot - self._first[clip] + place) / self.draws[clip]
        return clip, min(int(part * self.starts[clip]), int(self.starts[clip]) - 1)

    def _cut(self, clip: int, frame: int) -> tuple[Float[Tensor, " T"], Float[Tensor, "M F"]]:
        # lo ....... left ........ right ....... hi     a window with context on both sides, or up to the clip's ends:
        # |  context  |   segment    |  context  |      its inner frames equal those of the whole utterance
        hop, context = (self.spec.hop, ceil(self.spec.padding / self.spec.hop) * self.spec.hop)
        left = frame * hop
        right = left + self.segment
        lo, hi = max(left - context, 0), min(right + context, int(self.lengths[clip]))
        wav = torch.from_numpy(self._pcm(clip, lo, hi).astype(np.float32) / 32768)
        short = max(right, self.spec.padding + 1) - hi
        if short > 0:
            wav = torch.nn.functional.pad(wav, (0, short))
        mel = self.spec(wav[None])[0, :, (left - lo) // hop : (right - lo) // hop]
        return wav[left - lo : right - lo], mel

    def _pcm(self, clip: int, lo: int, hi: int) -> Int16[np.ndarray, " T"]:
        """Samples lo to hi of a clip, from memory or from disk."""
        length = int(self.lengths[clip])
        if clip in self._kept:
            return self._kept[clip][lo:hi]
        path, fits = self.corpus[clip].path, 2 * length <= self._room
        if not fits and self.corpus.headers[clip].rate == self.spec.rate:
            return _quantised(_span(path, lo, hi), path=path, samples=hi - lo)
        pcm = _quantised(read(path, rate=self.spec.rate)[0].numpy(), path=path, samples=length)
        if fits and self._kept.setdefault(clip, pcm) is pcm:  # two threads may decode a clip, one of them keeps it
            self._room -= pcm.nbytes
        return pcm[lo:hi]


class Prefetch:
    """`Prefetch(batch_at)(step)` is `batch_at(step)`, with the next `depth` steps computed ahead by threads.

    Any order of steps gives the same batches; only rising ones are fast. An error of `batch_at` is raised by the call
    for its step. Close it, or use it in a `with` block, to end the threads.
    """

    def __init__(self, batch_at: Callable[[int], Batch], *, depth: int = 4, workers: int = 1) -> None:
        if depth < 1 or workers < 1:
            raise WavegenError(f"got depth {depth} and {workers} workers, expected at least 1 of each")
        self.batch_at, self.depth = batch_at, depth
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
        self._ahead: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        wanted = range(step, step + self.depth + 1)
        for old in self._ahead.keys() - wanted:
            self._ahead.pop(old).cancel()
        for new in wanted:
            if new not in self._ahead:
                self._ahead[new] = self._threads.submit(self.batch_at, new)
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Drop what was computed ahead and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def validation(
    corpus: Corpus,
    spec: MelSpec,
    *,
    batch: int = 8,
    segment: int | None = None,
    seconds: float | None = None,
    **options: Any,
) -> list[Batch]:
    """The middle `segment` of every clip, always the same; with `seconds`, of evenly spread clips of that much sound.

    `segment` is one second, cut to whole frames, if not given; the last batch may be smaller. `options` and errors
    are those of `Batches`.
    """
    segment = segment or max(spec.rate // spec.hop, 1) * spec.hop
    cutter = Batches(corpus, spec, batch=batch, segment=segment, cache=0, **options)
    count = len(corpus) if seconds is None else min(len(corpus), max(1, ceil(seconds * spec.rate / segment)))
    clips = [i * len(corpus) // count for i in range(count)]
    draws = [(clip, int(cutter.starts[clip] - 1) // 2) for clip in clips]
    return [cutter.collate(draws[i : i + batch]) for i in range(0, count, batch)]


def _lengths(corpus: Corpus, rate: int) -> Int64[np.ndarray, " N"]:
    """Samples of each clip at `rate`, by its header."""
    if not corpus:
        raise WavegenError(f"got an empty part of {corpus.folder}, expected at least one clip")
    for clip, header in zip(corpus, corpus.headers, strict=True):
        if not 0 < header.frames < LONGEST:
            raise WavegenError(
                f"{clip.path} has {header.frames} samples by its header, expected 1 to {LONGEST - 1}; remove it"
            )
    return np.array([max(header.frames * rate // header.rate, 1) for header in corpus.headers], dtype=np.int64)


def _span(path: Path, lo: int, hi: int) -> Float32[np.ndarray, " T"]:
    """Samples lo to hi of a file, mixed to mono; fewer where the file ends."""
    try:
        with soundfile.SoundFile(path) as file:
            first = lo if file.format in EXACT_SEEK else 0
            if first:  # even a seek to the start changes what an MP3 decodes to
                file.seek(first)
            wav = file.read(hi - first, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise WavegenError(f"cannot decode {path} ({error}); `wavegen data check` lists such files") from error
    return wav[lo - first :].mean(axis=1)


def _quantised(wav: Float32[np.ndarray, " T"], *, path: Path, samples: int) -> Int16[np.ndarray, " N"]:
    """The first `samples` of a clip in 16 bits; refuses fewer, and NaN."""
    if len(wav) < samples or not np.isfinite(wav).all():
        got = "ends before its header says" if len(wav) < samples else "holds NaN or infinite samples"
        raise WavegenError(f"{path} {got}; mend or remove it, `wavegen data check` lists such files")
    return np.clip(np.rint(wav[:samples] * 32768), -32768, 32767).astype(np.int16)
