"""Laws of the evaluation: perfect copies score perfectly, damage shows, and nothing is NaN or silently missing."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wavegen.audio.files import read, write
from wavegen.audio.griffin_lim import griffin_lim
from wavegen.audio.mel import MelSpec
from wavegen.data.corpus import Clip, Corpus
from wavegen.errors import WavegenError
from wavegen.evaluation.bootstrap import bootstrap
from wavegen.evaluation.compare import compare, evaluate_folders, evaluate_vocoder
from wavegen.evaluation.likelihood import bits_per_sample, likelihood
from wavegen.evaluation.metrics import (
    METRICS,
    Unmeasurable,
    log_f0_rmse,
    mcd,
    multi_resolution_stft,
    pesq,
    stoi,
    vuv_error,
)
from wavegen.evaluation.recognition import transcribe, wer, word_errors
from wavegen.evaluation.report import Take, evaluate
from wavegen.model import Model

RATE = 22050
PERFECT = {"pesq": 4.644, "stoi": 1.0, "mcd": 0.0, "log_f0_rmse": 0.0, "vuv_error": 0.0, "multi_resolution_stft": 0.0}


def voice(seconds: float = 2.0, *, pitch: float = 150.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Harmonics with syllables at 3 Hz, moving formants and a little breath: speech enough for every metric."""
    t = np.arange(round(seconds * rate)) / rate
    sound = np.zeros_like(t)
    for k in range(1, int(5000 / pitch)):
        formant = 500 + 300 * np.sin(2 * np.pi * 0.9 * t)
        sound += np.sin(2 * np.pi * k * pitch * t + k * k) * np.exp(-(((k * pitch - formant) / 1500) ** 2))
    envelope = np.clip(np.sin(2 * np.pi * 1.5 * t) ** 2 - 0.2, 0, None)
    return 0.1 * sound * envelope + 1e-3 * np.random.default_rng(seed).normal(size=len(t))


def noisy(wav: np.ndarray, level: float) -> np.ndarray:
    return wav + level * np.random.default_rng(1).normal(size=len(wav))


def speech(corpus: str, split: str | None = None) -> Corpus:
    """A corpus of real speech; the test is skipped where there is none."""
    if "WAVEGEN_SPEECH" not in os.environ:
        pytest.skip("WAVEGEN_SPEECH does not name a folder of speech")
    return Corpus.open(Path(os.environ["WAVEGEN_SPEECH"]) / corpus, split)


# Metrics


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_copy_scores_perfectly(name):
    wav = voice()
    assert METRICS[name](wav, wav.copy(), RATE) == pytest.approx(PERFECT[name], abs=2e-3)


@pytest.mark.parametrize("name", ["pesq", "stoi", "mcd", "multi_resolution_stft"])
def test_more_noise_is_worse(name):
    wav = voice()
    scores = [METRICS[name](wav, noisy(wav, level), RATE) for level in (0.001, 0.01, 0.1)]
    assert scores == sorted(scores, reverse=name in ("pesq", "stoi"))
    assert len(set(scores)) == 3


@pytest.mark.parametrize("name", METRICS)
def test_a_missing_or_added_frame_at_the_end_is_cut_off(name):
    wav, copy = voice(), noisy(voice(), 0.01)
    short = METRICS[name](wav[:-256], copy[:-256], RATE)
    assert METRICS[name](wav, copy[:-256], RATE) == short == METRICS[name](wav[:-256], copy, RATE)


def test_mcd_of_a_filter_is_its_cepstrum():
    # A filter adds its log amplitude to every band; one shaped like cepstrum m shifts that cepstrum alone.
    wav = np.random.default_rng(0).normal(size=RATE) * 0.1
    assert mcd(wav, 0.5 * wav, RATE) == pytest.approx(0, abs=1e-3)  # the level is cepstrum 0, which does not count
    import librosa

    depth, order = 0.5, 5
    frequencies = np.fft.rfftfreq(len(wav), 1 / RATE)
    mels = librosa.hz_to_mel(np.minimum(frequencies, 8000)) / librosa.hz_to_mel(8000)
    gain = np.exp(depth * np.cos(np.pi * order * mels))
    shift = depth * math.sqrt(80 / 2)  # sum over bands of depth cos^2, orthonormal
    expected = 10 * math.sqrt(2) / math.log(10) * shift
    assert mcd(wav, np.fft.irfft(np.fft.rfft(wav) * gain, len(wav)), RATE) == pytest.approx(expected, rel=0.03)


def test_mcd_aligns_two_takes_of_different_speed():
    wav = voice()
    paused = np.concatenate([wav[:20000], voice(0.5, seed=2) * 0.01, wav[20000:]])
    with pytest.raises(WavegenError, match="align=True"):
        mcd(wav, paused, RATE)
    assert mcd(wav, wav, RATE, align=True) == 0
    other = np.random.default_rng(0).normal(size=len(paused)) * 0.1
    assert mcd(wav, paused, RATE, align=True) < mcd(wav, other, RATE, align=True) / 2


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_an_octave_is_ln_two(rate):
    assert log_f0_rmse(voice(rate=rate), voice(pitch=300, rate=rate), rate) == pytest.approx(math.log(2), abs=0.02)


def test_voicing_error_counts_the_frames():
    wav = voice(2)
    hissed = wav.copy()
    hissed[RATE:] = np.random.default_rng(0).normal(size=RATE) * 0.02
    voiced = vuv_error(wav, np.random.default_rng(0).normal(size=len(wav)) * 0.02, RATE)
    assert 0.3 < voiced < 1
    assert vuv_error(wav, hissed, RATE) == pytest.approx(voiced / 2, abs=0.1)


def test_spectral_distance_of_a_gain_is_known():
    wav = np.random.default_rng(0).normal(size=RATE)
    assert multi_resolution_stft(wav, 2 * wav, RATE) == pytest.approx(1 + math.log(2), abs=1e-3)


@pytest.mark.parametrize("name", METRICS)
def test_sounds_that_are_none_are_refused(name):
    wav, metric = voice(0.5), METRICS[name]
    for bad, reason in (
        (np.where(np.arange(len(wav)) == 99, np.nan, wav), "NaN"),
        (wav[None], "shape"),
        (wav[:-2000], r"the synthesis 0\.409 s"),
    ):
        with pytest.raises(WavegenError, match=reason):
            metric(wav, bad, RATE)
    with pytest.raises(Unmeasurable, match=r"expected at least 0\.25 s"):
        metric(wav[:100], wav[:100], RATE)
    with pytest.raises(WavegenError, match="100 Hz"):
        metric(wav, wav, 100)


@pytest.mark.parametrize("metric", [pesq, stoi, log_f0_rmse, multi_resolution_stft])
def test_silence_has_no_value_and_says_so(metric):
    silence = np.zeros(RATE)
    with pytest.raises(Unmeasurable):
        metric(silence, silence, RATE)


def test_pesq_refuses_what_would_crash_it():
    # Bursts of a fifth of a second: more utterances than the C code of the package has room for.
    t = np.arange(30 * 16000) / 16000
    bursts = np.random.default_rng(0).normal(size=len(t)) * 0.1 * (t % 0.42 < 0.21)
    with pytest.raises(Unmeasurable, match="at most 20"):
        pesq(bursts, noisy(bursts, 1e-3), 16000)
    kept = 20 * 16000
    assert 1 < pesq(bursts[:kept], noisy(bursts, 1e-3)[:kept], 16000) < 4.65


def test_a_missing_package_says_what_to_install():
    code = (
        "import sys; sys.modules['pesq'] = None\n"
        "import numpy as np; from wavegen.evaluation.metrics import pesq\n"
        "pesq(np.ones(9000), np.ones(9000), 16000)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "wavegen[eval]"' in run.stderr.splitlines()[-1]


# Recognition


def test_wer_ignores_case_and_punctuation_and_counts_words_of_the_whole_set():
    assert wer(["Now, you're well-known!"], ["now youre well known"]) == 0
    assert word_errors("one two three four", "one too three") == (2, 4)
    assert wer(["a b c d e f g h", "i j"], ["a b c d e f g h", "k l"]) == 0.2
    assert wer(["a"], ["b c d"]) == 3
    with pytest.raises(WavegenError, match="2 texts and 1 hyp"):
        wer(["a", "b"], ["a"])
    with pytest.raises(Unmeasurable, match="without words"):
        word_errors("...", "a")


def test_silence_is_heard_as_nothing():
    assert transcribe(np.zeros(RATE), RATE) == ""


def test_what_is_heard_does_not_depend_on_what_was_heard_before():
    wavs = [read(clip.path)[0] for clip in speech("kathleen", "test.csv")[5:6]]
    alone = [transcribe(wav, RATE) for wav in wavs]
    assert all(alone)
    for wav, heard in zip(wavs, alone, strict=True):
        transcribe(np.random.default_rng(0).normal(size=RATE), RATE)
        assert transcribe(wav, RATE) == heard


# Statistics


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values = rng.exponential(size=40).tolist()
        _, low, high = bootstrap(values, resamples=400)
        covered += low <= 1.0 <= high
    assert 0.88 < covered / 300 < 0.98  # percentile intervals of 40 skewed values fall a little short of 0.95


def test_bootstrap_is_seeded_weighted_and_strict():
    assert bootstrap([1, 2, 3]) == bootstrap([1, 2, 3]) != bootstrap([1, 2, 3, 4])
    assert bootstrap([1, 5], [2, 10]) == (0.5, 0.5, 0.5)
    assert bootstrap([0, 9], [1, 9]).mean == 0.9
    for values, weights in (([], None), ([math.nan], None), ([1], [0]), ([1, 2], [1])):
        with pytest.raises(WavegenError):
            bootstrap(values, weights)


# Likelihood


def test_bits_are_the_entropy_on_the_16_bit_grid():
    assert bits_per_sample(-math.log(2)) == pytest.approx(16)  # uniform over [-1, 1]
    assert bits_per_sample(math.log(2**15)) == 0  # all mass within one step
    assert bits_per_sample(5.190) == pytest.approx(7.51, abs=0.005)


class Gaussian(Model):
    """White noise of a known spread, as a model with a likelihood; copies a mel into noise."""

    presets = {"tiny": {}}

    def __init__(self, sigma: float = 0.1):
        super().__init__()
        self.mel = MelSpec.named("hifigan")
        self.log_sigma = nn.Parameter(torch.tensor(sigma).log())

    def loss(self, batch):
        wav = batch["wav"] + (torch.rand_like(batch["wav"]) - 0.5) / 2**15
        nats = -torch.distributions.Normal(0.0, self.log_sigma.exp(), validate_args=False).log_prob(wav).mean()
        return {"loss": nats, "nats": nats.detach()}

    def synthesize(self, mel, *, seed=None, temperature=None):
        noise = torch.randn(len(mel), mel.shape[-1] * self.mel.hop, generator=torch.Generator().manual_seed(seed or 0))
        return (1 if temperature is None else temperature) * noise * self.log_sigma.exp()


def test_the_likelihood_of_noise_is_its_entropy():
    generator = torch.Generator().manual_seed(0)
    batches = [{"wav": 0.1 * torch.randn(2, 5000, generator=generator)} for _ in range(10)]
    model, state = Gaussian(), torch.random.get_rng_state()
    found = likelihood(model, batches)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.01)
    assert found.nats.low < found.nats.mean < found.nats.high
    assert found.nats.mean == pytest.approx(entropy, abs=0.01)
    assert found.bits.mean == pytest.approx((math.log(2**15) + entropy) / math.log(2), abs=0.02)
    assert found.samples == 100_000
    assert likelihood(model, batches) == found  # the noise is seeded,
    assert torch.equal(torch.random.get_rng_state(), state)  # and the caller's is left alone,
    assert model.training  # as is the mode
    with pytest.raises(WavegenError, match="nan nats"):
        likelihood(model, [{"wav": torch.full((1, 9), math.nan)}])
    with pytest.raises(WavegenError, match="got 0 values"):
        likelihood(model, [])


# Reports


def test_a_report_survives_json_and_tells_what_is_missing(tmp_path):
    wav = voice(1)
    takes = [
        Take("a", wav, noisy(wav, 0.01), RATE, "x", seconds=0.5, nats=-3.0),
        Take("b", wav[:4000], wav[:4000], RATE, "x", seconds=0.1),
        Take("a", wav, wav, RATE, "y"),
    ]
    evaluation = evaluate(takes, metrics={"mcd": mcd, "nan": lambda *_: math.nan})
    told = json.loads(evaluation.to_json())
    assert told["systems"]["x"]["mcd"] == {**evaluation.summary["x"]["mcd"]._asdict(), "clips": 1, "missing": 1}
    assert told["systems"]["x"]["nan"] == {"mean": None, "low": None, "high": None, "clips": 0, "missing": 2}
    assert told["systems"]["x"]["rtf"]["mean"] == pytest.approx(0.6 * RATE / (len(wav) + 4000))
    assert told["systems"]["x"]["bits"]["mean"] == pytest.approx(bits_per_sample(3.0))
    assert told["systems"]["y"]["mcd"]["mean"] == 0
    assert "expected at least 0.25 s" in told["clips"][1]["missing"]["mcd"]
    table = evaluation.to_markdown()
    assert "MCD of x is missing on 1 of 2 clips: got 0.181 s" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1
    evaluation.save(tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == told
    assert (tmp_path / "evaluation.md").read_text() == table


def test_the_picture_shows_the_sounds(tmp_path):
    from matplotlib.image import imread

    wav = voice(1)
    for name, copy in (("same", wav.copy()), ("noise", noisy(wav, 0.1))):
        evaluate([Take("a", wav, copy, RATE, "x")], metrics={"mcd": mcd}).save(tmp_path / name)
    same, noise = (imread(tmp_path / name / "evaluation.png")[..., :3] for name in ("same", "noise"))
    assert same.shape == noise.shape and min(same.shape[:2]) > 300
    rows = same.shape[0]
    assert same.std() > 0.1
    assert np.abs(same - noise)[: rows // 3].mean() < 0.01  # the recording on top is the same in both
    assert np.abs(same - noise)[rows // 2 :].mean() > 0.1
    assert "matplotlib.pyplot" not in sys.modules


def test_a_clip_that_is_broken_is_named():
    wav = voice(1)
    with pytest.raises(WavegenError, match=r"^clip7 \(x\): .*NaN"):
        evaluate([Take("clip7", wav, wav * math.nan, RATE, "x")])
    with pytest.raises(WavegenError, match="no clip"):
        evaluate([])


def _save(folder: Path, name: str, wav: np.ndarray, rate: int = RATE) -> None:
    write(folder / name, torch.from_numpy(wav).float().clamp(-1, 1), rate)


def test_folders_are_matched_by_name_and_strays_are_named(tmp_path):
    originals, copies, out = tmp_path / "originals", tmp_path / "copies", tmp_path / "out"
    for name in "abc":
        _save(originals, f"{name}.flac", voice(0.6))
    for name in "ab":
        _save(copies, f"{name}.wav", voice(0.6))
    perfect = evaluate_folders(originals, copies, out=out)
    assert perfect.summary["synthesized"]["mcd"].mean == 0
    assert perfect.notes == ["Not synthesized: c."]
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.md", "evaluation.png"]
    _save(copies, "d.wav", voice(0.6))
    with pytest.raises(WavegenError, match=r"copies holds d without a counterpart in .*originals"):
        evaluate_folders(originals, copies)
    _save(originals, "d.flac", voice(0.6, rate=16000), 16000)
    with pytest.raises(WavegenError, match="16000 Hz"):
        evaluate_folders(originals, copies, metrics={"mcd": mcd})
    resampled = evaluate_folders(originals, copies, rate=16000, metrics={"mcd": mcd, "stoi": stoi})
    assert resampled.summary["synthesized"]["stoi"].mean > 0.95
    assert [score.values["mcd"][0] for score in resampled.scores[:2]] == [0, 0]
    with pytest.raises(WavegenError, match="no folder"):
        evaluate_folders(originals, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WavegenError, match="no sound files"):
        evaluate_folders(originals, tmp_path / "empty")


def test_copy_synthesis_ranks_the_systems(tmp_path):
    _save(tmp_path, "a.wav", voice(1))
    clips = [Clip("a", tmp_path / "a.wav")]
    evaluation = evaluate_vocoder(Gaussian(), clips, out=tmp_path / "out", metrics={"mcd": mcd, "stoi": stoi})
    summary = evaluation.summary
    assert list(summary) == ["recordings", "vocoder", "griffin-lim"]
    assert summary["recordings"]["mcd"].mean == 0 < summary["griffin-lim"]["mcd"].mean < summary["vocoder"]["mcd"].mean
    assert "bits" in summary["vocoder"] and "bits" not in summary["griffin-lim"]
    assert summary["vocoder"]["rtf"].mean > 0
    assert (tmp_path / "out" / "wavs" / "vocoder" / "a.wav").exists()


def test_real_speech_through_griffin_lim():
    clips = speech("ljspeech32")[3:6:2]  # of 5 and 6 s
    spec = MelSpec.named("hifigan")
    evaluation = compare({"griffin-lim": partial(griffin_lim, spec=spec, iterations=8)}, clips, spec)
    recordings, copies = evaluation.summary["recordings"], evaluation.summary["griffin-lim"]
    assert recordings["wer"].mean < 0.35
    assert recordings["wer"].mean <= copies["wer"].mean + 0.1 < 0.7
    assert 1.5 < copies["pesq"].mean < 4
    assert copies["stoi"].mean > 0.9
    assert 3 < copies["mcd"].mean < 9
    assert all(not score.missing for score in evaluation.scores)
