"""Laws of batches of whole clips."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn import functional

from wavegen.audio.files import read
from wavegen.audio.mel import MelSpec
from wavegen.data import Corpus, Prefetch, Utterances
from wavegen.errors import WavegenError

SPEC = MelSpec.named("hifigan")
# Samples of each clip: shorter than the padding, than the window, and longer, whole frames or not.
LENGTHS = (100, 700, 2048, 2049, 7000, 12800, 20001)
LABELS = {f"c-{i}": i for i in range(len(LENGTHS))}


def make(folder: Path, rates: tuple[int, ...] = (22050,) * len(LENGTHS)) -> Path:
    """A folder of noise, every clip at its own level."""
    folder.mkdir()
    for i, (samples, rate) in enumerate(zip(LENGTHS, rates, strict=True)):
        noise = np.random.default_rng(i).normal(0, 0.01 * (i + 1), samples).astype(np.float32)
        soundfile.write(folder / f"c-{i}.wav", noise, rate)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(make(tmp_path_factory.mktemp("corpus") / "clips"))


def whole(corpus: Corpus, clip: int, spec: MelSpec = SPEC) -> Tensor:
    """The mel of a clip (M, F), read straight from its file."""
    wav = read(corpus[clip].path, rate=spec.rate)[0]
    return spec(functional.pad(wav, (0, max(spec.padding + 1 - len(wav), 0)))[None])[0]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def items(*batches: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    """The label and the mel of each item, its padding cut off."""
    return [
        (int(label), mel[:, :frames])
        for batch in batches
        for label, mel, frames in zip(batch["label"], batch["mel"], batch["frames"], strict=True)
    ]


def test_a_batch_is_a_pure_function_of_seed_and_step(corpus: Corpus) -> None:
    options: dict[str, Any] = {"batch": 3, "longest": 9, "labels": LABELS}
    once, again = (Utterances(corpus, SPEC, **options, seed=5) for _ in range(2))
    forward = [once(step) for step in range(20)]
    assert all(same(again(step), forward[step]) for step in (19, 3, 17, 3, 0))
    with Prefetch(Utterances(corpus, SPEC, **options, seed=5), workers=3) as ahead:
        assert all(same(ahead(step), forward[step]) for step in range(20))
    other = Utterances(corpus, SPEC, **options, seed=6)
    assert not any(same(other(step), forward[step]) for step in range(20))


def test_an_epoch_draws_every_clip_once_and_runs_on_into_the_next(corpus: Corpus) -> None:
    utterances = Utterances(corpus, SPEC, batch=3, labels=LABELS)
    drawn = [label for step in range(7) for label in utterances(step)["label"].tolist()]
    epochs = [drawn[:7], drawn[7:14], drawn[14:]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    more = Utterances(corpus, SPEC, batch=16, labels=LABELS)(0)  # a batch may hold more than the corpus
    assert min(Counter(more["label"].tolist()).values()) == 2 and len(more["mel"]) == 16


def test_processes_together_see_what_one_sees(corpus: Corpus) -> None:
    one = Utterances(corpus, SPEC, batch=4, longest=9, labels=LABELS)
    ranks = [Utterances(corpus, SPEC, batch=4, longest=9, labels=LABELS, rank=rank, world=2) for rank in range(2)]
    for step in range(8):
        shares = items(*(rank(step) for rank in ranks))
        for (label, mel), (wanted, expected) in zip(shares, items(one(step)), strict=True):
            assert label == wanted and torch.equal(mel, expected)


@pytest.mark.parametrize("name", ["hifigan", "tacotron2", "r9y9_v01"])
def test_a_clip_is_whole_and_what_follows_it_is_silence(corpus: Corpus, name: str) -> None:
    spec = MelSpec.named(name)
    batch = Utterances(corpus, spec, batch=7, labels=LABELS)(0)
    assert batch["mel"].dtype == torch.float32 and batch["frames"].dtype == torch.int64
    assert batch["mel"].shape == (7, spec.bins, spec.frames(LENGTHS[-1]))
    silence = spec(torch.zeros(1, 60000))[0]
    for label, mel, frames in zip(batch["label"], batch["mel"], batch["frames"], strict=True):
        assert torch.equal(mel[:, :frames], whole(corpus, int(label), spec))
        assert torch.equal(mel[:, frames:], silence[:, : mel.shape[1] - frames])
        assert (mel >= silence[:, :1]).all(), "no band is ever lower"


def test_silence_is_that_of_digital_zero_where_the_floor_is_out_of_reach(corpus: Corpus) -> None:
    mean, std = tuple(np.linspace(-5, 1, 80)), tuple(np.linspace(1, 3, 80))
    spec = replace(SPEC, epsilon=1e-2, mean=mean, std=std)
    batch = Utterances(corpus, spec, batch=7, labels=LABELS)(0)
    shortest = batch["label"].tolist().index(0)
    zeros = spec(torch.zeros(1, 4096))[0, :, 3:4]
    floor = (np.log(spec.floor) - torch.tensor(mean)) / torch.tensor(std)
    padding = batch["mel"][shortest, :, 1:]
    torch.testing.assert_close(padding, zeros.expand_as(padding), atol=2e-6, rtol=0)  # sums of other sizes round apart
    assert (zeros[:, 0] > floor).all()


def test_a_longer_clip_is_cut_anywhere_with_equal_chance(corpus: Corpus) -> None:
    utterances = Utterances(corpus, SPEC, batch=7, longest=25, labels=LABELS)
    mels = [whole(corpus, clip) for clip in range(len(corpus))]
    starts: Counter[int] = Counter()
    for label, mel in items(*(utterances(step) for step in range(500))):
        frames = mels[label].shape[1]
        assert mel.shape[1] == min(frames, 25)
        found = [i for i in range(frames - mel.shape[1] + 1) if torch.equal(mels[label][:, i : i + mel.shape[1]], mel)]
        assert len(found) == 1, "a cut is a run of frames of its clip"
        if label == 5:
            starts[found[0]] += 1
    mean = 500 / 26  # 50 frames, 26 starts
    assert set(starts) == set(range(26)) and max(abs(n - mean) for n in starts.values()) < 5 * mean**0.5


def test_all_is_every_clip_in_order_or_its_middle(corpus: Corpus) -> None:
    mels = [whole(corpus, clip) for clip in range(len(corpus))]
    every = Utterances(corpus, SPEC, batch=3, labels=LABELS).all()
    assert [len(batch["mel"]) for batch in every] == [3, 3, 1]
    for clip, (label, mel) in enumerate(items(*every)):
        assert label == clip and torch.equal(mel, mels[clip])
    middles = items(*Utterances(corpus, SPEC, batch=2, longest=8, labels=LABELS, seed=9).all())
    for (_, mel), full in zip(middles, mels, strict=True):
        before = max(full.shape[1] - 8, 0) // 2
        assert any(torch.equal(mel, full[:, i : i + 8]) for i in (before, before + full.shape[1] % 2))
    reverse = Corpus(corpus.folder, corpus.clips[::-1])
    ranks = [Utterances(reverse, SPEC, batch=4, labels=LABELS, rank=rank, world=2).all() for rank in range(2)]
    assert [label for label, _ in items(*ranks[0])] == [6, 5, 4, 3, 2, 1, 0]
    assert all(same(a, b) for a, b in zip(*ranks, strict=True)), "every process validates on the same"


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    found = Corpus.open(make(tmp_path / "mixed", (22050, 8000, 16000, 44100, 22050, 24000, 48000)))
    for clip, (_, mel) in enumerate(items(*Utterances(found, SPEC, batch=7, labels=LABELS).all())):
        assert torch.equal(mel, whole(found, clip))


def test_labels_are_optional(corpus: Corpus) -> None:
    batches = (Utterances(corpus, SPEC, batch=2, labels=labels) for labels in (None, LABELS))
    plain, labelled = (batch(0) for batch in batches)
    assert plain.keys() == {"mel", "frames"} and labelled["label"].dtype == torch.int64
    assert same(plain, {key: labelled[key] for key in plain})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": dict(islice(LABELS.items(), 5))}, "no label for 2 clips, 'c-5' first"),
        ({"batch": 3, "world": 2}, "multiple of 2"),
        ({"batch": 0}, "positive multiple"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"longest": 0}, "at most 0 frames"),
        ({"corpus": slice(0)}, "empty part"),
    ],
)
def test_arguments_out_of_range_are_refused(corpus: Corpus, options: dict, message: str) -> None:
    given: dict[str, Any] = {"corpus": slice(None), "batch": 2} | options
    with pytest.raises(WavegenError, match=message):
        Utterances(corpus[given.pop("corpus")], SPEC, **given)
    with pytest.raises(WavegenError, match="step -1"):
        Utterances(corpus, SPEC, batch=1)(-1)


@pytest.mark.parametrize("kind", ["text", "empty", "nan", "half", "gone"])
def test_an_unreadable_clip_is_named(tmp_path: Path, kind: str) -> None:
    found = Corpus.open(make(tmp_path / "clips"))
    path, intact = found[4].path, found[4].path.read_bytes()
    if kind in ("empty", "nan"):
        soundfile.write(path, np.full(0 if kind == "empty" else 3000, np.nan), 22050, subtype="FLOAT")
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes(b"this is no sound" if kind == "text" else intact[:3000])
    utterances = Utterances(found, SPEC, batch=7)
    for draw in (utterances.all, lambda: utterances(0)):
        with pytest.raises(WavegenError, match=r"c-4\.wav"):
            draw()
