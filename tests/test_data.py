"""Laws of the corpus, the audit and the batches."""

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from wavegen.audio.files import read
from wavegen.audio.mel import MelSpec
from wavegen.data import Batches, Corpus, Prefetch, check, validation
from wavegen.errors import WavegenError

SPEC = MelSpec.named("hifigan")
SEGMENT = 2048
# Samples of each clip: shorter than a frame, than a segment, exactly one, and longer, whole frames or not.
LENGTHS = (100, 1500, 2048, 2049, 7000, 12800, 30001)


def sound(samples: int, seed: int = 0, rate: int = 22050) -> np.ndarray:
    """A gliding tone in noise."""
    time = np.arange(samples) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * seed + 400 * time) * time)
    return (tone + np.random.default_rng(seed).normal(0, 0.02, samples)).astype(np.float32)


def make(folder: Path, lengths: tuple[int, ...] = LENGTHS, *, suffix: str = "wav", rate: int = 22050) -> Path:
    """A corpus in the LJSpeech layout."""
    (folder / "wavs").mkdir(parents=True)
    for i, samples in enumerate(lengths):
        soundfile.write(folder / "wavs" / f"c-{i}.{suffix}", sound(samples, i, rate), rate)
    lines = (f'c-{i}|No. {i} said "hm|Number {i} said "hm\n' for i in range(len(lengths)))
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(make(tmp_path_factory.mktemp("corpus") / "lj"))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Corpus


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "WAV"])
def test_the_ljspeech_layout(tmp_path: Path, suffix: str) -> None:
    found = Corpus.open(make(tmp_path / "lj", (4000, 5000), suffix=suffix))
    assert [clip.id for clip in found] == ["c-0", "c-1"]
    assert found[1].text == 'Number 1 said "hm' and found[1].path.suffix == f".{suffix}"
    assert found.rate == 22050 and found.hours == pytest.approx(9000 / 22050 / 3600)
    assert "2 clips" in repr(found) and isinstance(found[1:], Corpus) and len(found[1:]) == 1


def test_any_folder_of_audio(tmp_path: Path) -> None:
    for name in ("b.wav", "a/b.wav", "a/c/d.e.flac", ".hidden.wav", ".cache/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, sound(1000), 16000)
    (tmp_path / "notes.txt").touch()
    found = Corpus.open(tmp_path)
    assert [clip.id for clip in found] == ["a/b", "a/c/d.e", "b"]
    assert not any(clip.text for clip in found)


def test_what_editors_do_to_metadata(tmp_path: Path) -> None:
    folder = make(tmp_path / "lj", (4000, 5000, 6000))
    text = "\ufeffc-0|Grüße|Grüße\r\n\r\nc-1|only one text\r\nc-2|fallback|"
    (folder / "metadata.csv").write_bytes(text.encode())
    assert [clip.text for clip in Corpus.open(folder)] == ["Grüße", "only one text", "fallback"]


def test_a_split_keeps_its_order_wherever_it_lies(tmp_path: Path) -> None:
    folder = make(tmp_path / "lj", (4000, 5000, 6000))
    for path in (folder / "train.csv", tmp_path / "elsewhere.txt"):
        path.write_text("c-2|some|text\nc-0\n")
    for split in ("train.csv", tmp_path / "elsewhere.txt"):
        assert [clip.id for clip in Corpus.open(folder, split)] == ["c-2", "c-0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c-0|a|a\nc-7|b|b\nc-8|b|b\n", "line 2 .*'c-7'.*1 more"),
        ("c-0|a|a\n\nc-0|a|a\n", "line 3 .*'c-0' again"),
        ("c-0|a|a\nc-1\n", "line 2 .*'c-1', expected id"),
        ("c-0|a|b|c\n", "line 1 .*expected id"),
        ("|a|b\n", "line 1 .*expected id"),
        ("../secret|a|a\n", "'../secret', expected a name below wavs"),
        ("/secret|a|a\n", "expected a name below wavs"),
        ("..\\secret|a|a\n", "expected a name below wavs"),
        ("c\0|a|a\n", "expected a name below wavs"),
        ("\n", "names no clip"),
        (b"c-0|\xff\xfe|a\n", "not UTF-8"),
        ("c-0|" + "a|" * 10**6 + "\n", "expected id"),
    ],
)
def test_malformed_metadata_is_named_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    folder = make(tmp_path / "lj", (4000, 5000))
    soundfile.write(tmp_path / "lj" / "secret.wav", sound(1000), 22050)
    (folder / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WavegenError, match=message) as caught:
        Corpus.open(folder)
    assert len(str(caught.value)) < 500


def test_folders_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(WavegenError, match="no folder at"):
        Corpus.open(tmp_path / "missing")
    with pytest.raises(WavegenError, match="no audio below"):
        Corpus.open(tmp_path)
    (tmp_path / "metadata.csv").write_text("a|b|c\n")
    with pytest.raises(WavegenError, match="no audio below .*wavs"):
        Corpus.open(tmp_path)
    folder = make(tmp_path / "lj", (4000,))
    soundfile.write(folder / "wavs" / "c-0.flac", sound(1000), 22050)
    with pytest.raises(WavegenError, match="share the id 'c-0'"):
        Corpus.open(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("c-0\nc-9\n", "'c-9'"), ("c-0\nc-0\n", "'c-0' more than once"), ("\n", "no id")]
)
def test_a_split_must_fit_the_corpus(tmp_path: Path, corpus: Corpus, text: str, message: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(WavegenError, match=message):
        Corpus.open(corpus.folder, tmp_path / "list")
    with pytest.raises(WavegenError, match="cannot read"):
        Corpus.open(corpus.folder, "missing.csv")


def test_mixed_rates_are_refused_only_when_it_matters(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(3000), 16000)
    soundfile.write(tmp_path / "b.wav", sound(3000), 22050)
    found = Corpus.open(tmp_path)
    with pytest.raises(WavegenError, match="16000 Hz .'a'., 22050 Hz .'b'., expected one rate"):
        _ = found.rate
    with pytest.raises(WavegenError, match="expected one rate"):
        Batches(found, SPEC, batch=1, segment=SEGMENT)
    assert Batches(found, SPEC, batch=2, segment=SEGMENT, resample=True)(0)["wav"].shape == (2, SEGMENT)


# Audit


def test_a_good_corpus_passes(corpus: Corpus, tmp_path: Path) -> None:
    folder = make(tmp_path / "lj", (4000, 5000))
    for given in (folder, str(folder), Corpus.open(folder)):
        report = check(given, rate=22050)
        assert not report.fatal and not report.findings and report.clips == 2
        assert report.rates == {22050: 2} and 0.3 < report.peak < 0.5
        assert report.hours == pytest.approx(9000 / 22050 / 3600)
        assert "no problem" in str(report)


def spoil(wavs: Path) -> None:
    """One clip for every problem, named after it."""
    clean = sound(22050, 50)
    spoiled = {
        "all zero": np.zeros(22050),
        "nearly silent": clean / 100,
        "too short": clean[:500],
        "clipping": np.clip(clean * 10, -1, 32767 / 32768),
        "DC offset": clean + 0.1,
        "long": sound(22050 * 31, 51),
        "channels": np.stack([clean, -clean[::-1]], axis=1),
    }
    for name, wav in spoiled.items():
        soundfile.write(wavs / f"{name}.wav", wav, 22050)
    nan = sound(22050, 52)
    nan[1000] = np.nan
    soundfile.write(wavs / "damaged nan.wav", nan, 22050, subtype="FLOAT")
    soundfile.write(wavs / "damaged empty.wav", np.zeros(0), 22050)
    (wavs / "damaged text.wav").write_text("this is no sound")
    (wavs / "damaged nothing.flac").touch()
    soundfile.write(wavs / "whole.flac", sound(22050, 53), 22050)
    half = (wavs / "whole.flac").read_bytes()[:20000]
    (wavs / "damaged half.flac").write_bytes(half)
    soundfile.write(wavs / "wrong rate.wav", sound(22050, 54), 16000)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("spoiled") / "lj", (22050, 23050))
    spoil(folder / "wavs")
    soundfile.write(folder / "wavs" / "copy.flac", soundfile.read(folder / "wavs" / "c-0.wav")[0], 22050)
    soundfile.write(folder / "wavs" / "not listed.wav", sound(22050, 55), 22050)
    soundfile.write(folder / "wavs" / "no transcript.wav", sound(22050, 56), 22050)
    ids = [path.stem for path in sorted((folder / "wavs").iterdir()) if path.stem not in ("not listed", "c-0", "c-1")]
    lines = [
        "c-0|same text|same text",
        "c-1|text|text",
        "copy|same text|same text",
        "c-1|text|text",
        "x\x1b[2J",
        "no|a|a",
    ]
    lines += [f"{id}|{'' if id == 'no transcript' else 'text'}|" for id in ids if id != "copy"]
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


WARNINGS = {"nearly silent", "clipping", "DC offset", "long", "channels", "duplicate audio", "not listed"}
FATAL = {
    "all zero",
    "too short",
    "damaged",
    "wrong rate",
    "no transcript",
    "duplicate id",
    "malformed line",
    "no audio",
}


def test_every_problem_is_found_once_and_nothing_else(spoiled: Path) -> None:
    report = check(spoiled)
    assert report.fatal
    found = {(finding.problem, finding.id) for finding in report.findings}
    named = {(name, name) for name in (WARNINGS | FATAL) - {"damaged", "duplicate audio"}}
    named -= {(name, name) for name in ("duplicate id", "malformed line", "no audio")}
    damaged = {("damaged", f"damaged {kind}") for kind in ("nan", "empty", "text", "nothing", "half")}
    listed = {("duplicate audio", "copy"), ("duplicate id", "c-1"), ("malformed line", "x\x1b[2J"), ("no audio", "no")}
    assert found == named | damaged | listed
    assert {finding.problem for finding in report.findings if finding.severity == "warning"} == WARNINGS
    assert {finding.problem for finding in report.findings if finding.severity == "fatal"} == FATAL


def test_the_table_tells_all_and_cannot_drive_the_terminal(spoiled: Path) -> None:
    report = check(spoiled)
    text = str(report)
    for finding in report.findings:
        assert finding.problem in text
    assert "16000 Hz (1 clips)" in text and "NaN" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_the_same_sound_under_two_texts_is_fatal(tmp_path: Path) -> None:
    folder = make(tmp_path / "lj", (9000, 9500))
    (folder / "wavs" / "c-1.wav").write_bytes((folder / "wavs" / "c-0.wav").read_bytes())
    (finding,) = check(folder).findings
    assert (finding.problem, finding.id, finding.severity) == ("duplicate audio", "c-1", "fatal")


def test_a_stated_rate_is_the_one_expected(corpus: Corpus) -> None:
    report = check(corpus, rate=24000, shortest=0.0)
    assert report.fatal and sum(finding.problem == "wrong rate" for finding in report.findings) == len(corpus)


# Batches


def test_a_batch_is_a_pure_function_of_seed_and_step(corpus: Corpus) -> None:
    options: dict[str, Any] = {"batch": 3, "segment": SEGMENT, "seed": 5}
    once, again, no_memory = (
        Batches(corpus, SPEC, **options),
        Batches(corpus, SPEC, **options),
        Batches(corpus, SPEC, **options, cache=0),
    )
    forward = [once(step) for step in range(30)]
    for step in (29, 3, 17, 3, 0, 28):
        assert same(again(step), forward[step]), "the order of the steps must not matter"
        assert same(no_memory(step), forward[step]), "nor where the samples come from"
    other = Batches(corpus, SPEC, batch=3, segment=SEGMENT, seed=6)
    assert not any(same(other(step), forward[step]) for step in range(30))
    assert not same(forward[0], forward[1])


@pytest.mark.parametrize("name", ["hifigan", "tacotron2", "r9y9"])
@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_a_cut_mel_is_the_mel_of_the_whole_utterance_cut(corpus: Corpus, name: str, cache: int) -> None:
    spec = MelSpec.named(name)
    batches = Batches(corpus, spec, batch=1, segment=SEGMENT, cache=cache)
    frames = SEGMENT // spec.hop
    for clip in range(len(corpus)):
        wav = read(corpus[clip].path)[0]
        wav = torch.nn.functional.pad(wav, (0, max(SEGMENT - len(wav), 0)))
        whole = spec(wav[None])[0]
        starts = range(int(batches.starts[clip]))
        for start in sorted({*starts[:5], *starts[5:-5:9], *starts[-5:]}):
            got = batches.collate([(clip, start)])
            assert got["wav"].shape == (1, SEGMENT) and got["mel"].shape == (1, spec.bins, frames)
            assert torch.equal(got["wav"][0], wav[start * spec.hop : start * spec.hop + SEGMENT])
            torch.testing.assert_close(got["mel"][0], whole[:, start : start + frames], atol=2e-4, rtol=0)


def test_an_epoch_draws_every_part_of_every_clip_once(corpus: Corpus) -> None:
    batches = Batches(corpus, SPEC, batch=1, segment=SEGMENT, seed=3)
    for epoch in range(3):
        draws = [batches.draw(epoch * batches.epoch + i) for i in range(batches.epoch)]
        for clip, samples in enumerate(LENGTHS):
            parts = -(-samples // SEGMENT)
            starts = sorted(start for drawn, start in draws if drawn == clip)
            assert len(starts) == parts
            bounds = [part * batches.starts[clip] / parts for part in range(parts + 1)]
            assert all(int(lo) <= start <= hi for lo, start, hi in zip(bounds, starts, bounds[1:], strict=False))
    orders = [[batches.draw(epoch * batches.epoch + i)[0] for i in range(batches.epoch)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_every_start_is_equally_likely(corpus: Corpus) -> None:
    batches = Batches(corpus, SPEC, batch=1, segment=SEGMENT)
    clip = LENGTHS.index(30001)
    draws = [batches.draw(item) for item in range(batches.epoch * 400)]
    counts = Counter(start for drawn, start in draws if drawn == clip)
    starts = int(batches.starts[clip])
    mean = 400 * -(-30001 // SEGMENT) / starts
    assert set(counts) == set(range(starts)) == set(range((30001 - SEGMENT) // SPEC.hop + 1))
    assert max(abs(count - mean) for count in counts.values()) < 5 * mean**0.5


def test_a_segment_of_one_frame(corpus: Corpus) -> None:
    for name in ("hifigan", "tacotron2"):
        spec = MelSpec.named(name)
        batches = Batches(corpus, spec, batch=1, segment=spec.hop)
        got = batches.collate([(clip, 0) for clip in range(len(corpus))])  # a clip may be shorter than the padding
        assert got["wav"].shape == (7, spec.hop) and got["mel"].shape == (7, spec.bins, 1)
        assert torch.equal(got["wav"][0, 100:], torch.zeros(spec.hop - 100))


def test_processes_together_see_what_one_sees(corpus: Corpus) -> None:
    one = Batches(corpus, SPEC, batch=6, segment=SEGMENT)
    for world in (2, 3):
        ranks = [Batches(corpus, SPEC, batch=6, segment=SEGMENT, rank=rank, world=world) for rank in range(world)]
        for step in (0, 5, 11):
            parts = [batches(step) for batches in ranks]
            assert same(one(step), {key: torch.cat([part[key] for part in parts]) for key in ("wav", "mel")})


def test_formats_that_cannot_seek_exactly_agree_too(tmp_path: Path) -> None:
    for suffix in ("mp3", "ogg", "flac"):
        found = Corpus.open(make(tmp_path / suffix, (9000, 40000), suffix=suffix))
        kept, fresh = (Batches(found, SPEC, batch=4, segment=SEGMENT, cache=cache) for cache in (1 << 30, 0))
        assert all(same(kept(step), fresh(step)) for step in range(6)), suffix


def test_styles_travel_with_their_clips(corpus: Corpus) -> None:
    styles = {clip.id: torch.full((3,), float(i)) for i, clip in enumerate(corpus)}
    batches = Batches(corpus, SPEC, batch=4, segment=SEGMENT, styles=styles)
    assert batches(2)["style"].tolist() == [[float(batches.draw(item)[0])] * 3 for item in range(8, 12)]
    del styles["c-3"]
    with pytest.raises(WavegenError, match="'c-3'"):
        Batches(corpus, SPEC, batch=4, segment=SEGMENT, styles=styles)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 2000}, "multiple of the hop, 256"),
        ({"segment": 0}, "multiple of the hop"),
        ({"batch": 0}, "positive multiple"),
        ({"batch": 3, "world": 2}, "multiple of 2"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank -1"),
        ({"spec": MelSpec.named("vocos")}, "22050 Hz, the mel convention expects 24000 Hz"),
    ],
)
def test_arguments_out_of_range_are_refused(corpus: Corpus, options: dict, message: str) -> None:
    given: dict[str, Any] = {"spec": SPEC, "batch": 2, "segment": SEGMENT} | options
    with pytest.raises(WavegenError, match=message):
        Batches(corpus, given.pop("spec"), **given)
    with pytest.raises(WavegenError, match="step -1"):
        Batches(corpus, SPEC, batch=1, segment=SEGMENT)(-1)


@pytest.mark.parametrize("cache", [0, 1 << 30])
@pytest.mark.parametrize("kind", ["nan", "empty", "text", "half"])
def test_a_damaged_clip_is_named(spoiled: Path, tmp_path: Path, kind: str, cache: int) -> None:
    suffix = "flac" if kind == "half" else "wav"
    (tmp_path / f"bad.{suffix}").write_bytes((spoiled / "wavs" / f"damaged {kind}.{suffix}").read_bytes())
    with pytest.raises(WavegenError, match=f"bad.{suffix}"):
        batches = Batches(Corpus.open(tmp_path), SPEC, batch=8, segment=SEGMENT, cache=cache)
        for step in range(batches.epoch):
            batches(step)


def test_a_batch_can_be_resampled(tmp_path: Path) -> None:
    found = Corpus.open(make(tmp_path / "lj", (16000, 16001, 15999), rate=16000))
    batches = Batches(found, SPEC, batch=1, segment=SEGMENT, resample=True)
    for clip in range(3):
        wav = read(found[clip].path, rate=22050)[0]
        last = int(batches.starts[clip]) - 1
        got = batches.collate([(clip, last)])["wav"][0]
        torch.testing.assert_close(got, wav[last * 256 : last * 256 + SEGMENT], atol=1 / 65536 + 1e-7, rtol=0)


# Ahead


@pytest.mark.parametrize("workers", [1, 3])
def test_computing_ahead_changes_nothing(corpus: Corpus, workers: int) -> None:
    batches = Batches(corpus, SPEC, batch=2, segment=SEGMENT)
    direct = Batches(corpus, SPEC, batch=2, segment=SEGMENT)
    before = threading.active_count()
    with Prefetch(batches, depth=3, workers=workers) as ahead:
        for step in (*range(12), 3, 3, 40, 41, 7):
            assert same(ahead(step), direct(step))
    assert threading.active_count() == before


def test_steps_are_computed_ahead_in_order_and_once() -> None:
    computed: list[int] = []
    reached = threading.Event()

    def batch_at(step: int) -> dict[str, Tensor]:
        computed.append(step)
        if step == 14:
            reached.set()
        return {"step": torch.tensor(step)}

    with Prefetch(batch_at, depth=4) as ahead:
        assert ahead(10)["step"] == 10
        assert reached.wait(timeout=10), "four more are computed though nobody asked for them"
        assert ahead(11)["step"] == 11
    assert computed[:5] == [10, 11, 12, 13, 14] and len(set(computed)) == len(computed)


def test_an_error_reaches_the_step_it_belongs_to() -> None:
    def batch_at(step: int) -> dict[str, Tensor]:
        if step == 2:
            raise WavegenError("two is damaged")
        return {"step": torch.tensor(step)}

    with Prefetch(batch_at) as ahead:
        assert ahead(0)["step"] == 0 and ahead(1)["step"] == 1
        with pytest.raises(WavegenError, match="two is damaged"):
            ahead(2)
        assert ahead(3)["step"] == 3
    with pytest.raises(WavegenError, match="at least 1"):
        Prefetch(batch_at, depth=0)


# Validation


def test_validation_is_the_middle_of_every_clip(corpus: Corpus) -> None:
    batches = validation(corpus, SPEC, batch=3, segment=SEGMENT)
    assert [len(batch["wav"]) for batch in batches] == [3, 3, 1]
    assert all(same(a, b) for a, b in zip(batches, validation(corpus, SPEC, batch=3, segment=SEGMENT), strict=True))
    wav = read(corpus[5].path)[0]
    start = (12800 - SEGMENT) // 256 // 2 * 256
    assert torch.equal(batches[1]["wav"][2], wav[start : start + SEGMENT])


def test_validation_of_so_many_seconds_is_spread(corpus: Corpus) -> None:
    few = validation(corpus, SPEC, segment=SEGMENT, seconds=3 * SEGMENT / 22050)
    middle = validation(corpus, SPEC, batch=1, segment=SEGMENT)
    assert torch.equal(few[0]["wav"], torch.cat([middle[clip]["wav"] for clip in (0, 2, 4)]))
    assert validation(corpus, SPEC)[0]["wav"].shape == (7, 86 * 256)


# Real speech

SPEECH = os.environ.get("WAVEGEN_SPEECH", "")


@pytest.mark.skipif(not SPEECH, reason="needs WAVEGEN_SPEECH")
@pytest.mark.parametrize("name", ["kathleen", "ljspeech32"])
def test_real_corpora_are_read_whole(name: str) -> None:
    folder = Path(SPEECH) / name
    found = Corpus.open(folder)
    assert found.rate == 22050 and all(clip.text for clip in found)
    splits = [
        Corpus.open(folder, split.name) for split in sorted(folder.glob("t*.csv")) + sorted(folder.glob("v*.csv"))
    ]
    ids = [clip.id for split in splits for clip in split]
    assert len(ids) == len(set(ids)) <= len(found)
    assert not check(found[:: max(len(found) // 30, 1)], rate=22050).fatal
    assert Batches(found, SPEC, batch=4, segment=SEGMENT)(0)["mel"].shape == (4, 80, 8)
