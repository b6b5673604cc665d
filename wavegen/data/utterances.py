"""Batches of whole clips, for models that look at an utterance at once."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from wavegen.audio.files import read
from wavegen.audio.mel import MelSpec
from wavegen.data.batches import Batch
from wavegen.data.corpus import Corpus
from wavegen.data.epochs import Epochs
from wavegen.errors import WavegenError

__all__ = ["Utterances"]

MIDDLE = 0.5  # the place of a cut that leaves as much before it as after it


class Utterances:
    """`utterances(step)` is {"mel": (B, M, F), "frames": (B,)}, and "label" (B,) where `labels` numbers every id.

    A clip is whole, or `longest` frames of it, cut at random with every start equally likely. F is the longest of
    the batch; what lies beyond the `frames` of an item is `silence`, the mel of digital zero and the lowest value a
    band can take. Recordings of another rate are resampled. A clip too short to have a mel is padded with zeros at its
    end, and its frames are those of the padded sound.

    An epoch draws every clip once, in shuffled order. Batch `step` holds items step * batch to (step + 1) * batch of
    the endless sequence of epochs; of these, process `rank` of `world` gets the `rank`-th share, padded to its own
    longest. The mel of a clip is computed when first drawn and stays in memory: about 100 MB an hour of speech.

    Raises:
        WavegenError: the corpus is empty, a clip has no label, `longest` is below 1, `batch` does not split over
            `world`, or, when it is first drawn, a clip is unreadable, empty, truncated or holds NaN.
    """

    def __init__(
        self,
        corpus: Corpus,
        spec: MelSpec,
        *,
        batch: int,
        longest: int | None = None,
        labels: Mapping[str, int] | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not corpus:
            raise WavegenError(f"got an empty part of {corpus.folder}, expected at least one clip")
        if longest is not None and longest < 1:
            raise WavegenError(f"got clips of at most {longest} frames, expected 1 or more, or None for whole clips")
        missing = [] if labels is None else [clip.id for clip in corpus if clip.id not in labels]
        if missing:
            raise WavegenError(f"no label for {len(missing)} clips, {missing[0]!r} first; give every id a number")
        self.corpus, self.spec, self.longest, self.labels = corpus, spec, longest, labels
        self.epochs = Epochs(len(corpus), batch=batch, seed=seed, rank=rank, world=world)
        self.silence: Float32[Tensor, " M"] = self._mel_of(torch.zeros(1))[:, 0]
        self._kept: dict[int, Float32[Tensor, "M F"]] = {}

    def __repr__(self) -> str:
        return f"Utterances({self.corpus!r}, {self.epochs.batch} at once)"

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return self.collate(self.epochs(step))

    def all(self) -> list[Batch]:
        """Every clip once, in the corpus' order, whole or its middle `longest` frames; the last batch may be smaller.

        The same for every process: for validation.
        """
        clips, batch = range(len(self.corpus)), self.epochs.batch
        return [self.collate([(clip, MIDDLE) for clip in clips[i : i + batch]]) for i in clips[::batch]]

    def collate(self, draws: Sequence[tuple[int, float]]) -> Batch:
        """The batch of the given (clip, place of its cut in [0, 1)) pairs."""
        mels = [self._cut(clip, place) for clip, place in draws]
        frames = torch.tensor([mel.shape[-1] for mel in mels])
        padded = self.silence[:, None].repeat(len(mels), 1, int(frames.max()))
        for row, mel in zip(padded, mels, strict=True):
            row[:, : mel.shape[-1]] = mel
        batch = {"mel": padded, "frames": frames}
        if self.labels is not None:
            batch["label"] = torch.tensor([self.labels[self.corpus[clip].id] for clip, _ in draws])
        return batch

    def _cut(self, clip: int, place: float) -> Float32[Tensor, "M F"]:
        mel = self._mel(clip)
        length = min(self.longest or mel.shape[-1], mel.shape[-1])
        start = int(place * (mel.shape[-1] - length + 1))
        return mel[:, start : start + length]

    def _mel(self, clip: int) -> Float32[Tensor, "M F"]:
        if clip not in self._kept:  # two threads may compute a mel, to the same bits, and one of them keeps it
            wav, _ = read(self.corpus[clip].path, rate=self.spec.rate)
            self._kept.setdefault(clip, self._mel_of(wav))
        return self._kept[clip]

    @torch.no_grad()
    def _mel_of(self, wav: Float32[Tensor, " T"]) -> Float32[Tensor, "M F"]:
        short = max(self.spec.padding + 1, self.spec.hop) - len(wav)
        return self.spec(functional.pad(wav, (0, max(short, 0)))[None])[0]
