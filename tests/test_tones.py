"""Laws of the tone check: it reads a steady tone at its level, wherever it hides, and finds none in speech."""

import math

import numpy as np
import pytest

from wavegen.audio.files import read
from wavegen.data.corpus import Corpus
from wavegen.errors import WavegenError
from wavegen.evaluation.metrics import Unmeasurable
from wavegen.evaluation.report import Take, evaluate
from wavegen.evaluation.tones import tones

RATE = 22050


def tone(k: float, group: int, *, amplitude: float = 0.003, samples: int = 3 * RATE) -> np.ndarray:
    return amplitude * np.cos(2 * np.pi * k / group * np.arange(samples) + (0 if 2 * k == group else 1))


def syllables(samples: int = 3 * RATE) -> np.ndarray:
    """Noise that comes and goes, over a little noise that stays."""
    noise = np.random.default_rng(0).normal(size=(2, samples))
    return 0.1 * noise[0] * np.clip(np.sin(2 * np.pi * 1.5 * np.arange(samples) / RATE), 0, 1) + 1e-4 * noise[1]


def power(wav: np.ndarray) -> float:
    return 10 * math.log10(np.mean(wav**2))


@pytest.mark.parametrize("rate", [8000, RATE, 48000])
@pytest.mark.parametrize("group", [2, 5, 8, 12, 16, 128])
def test_a_tone_alone_has_all_the_power_and_every_other_line_none(group, rate):
    for k in {1, group // 3 or 1, group // 2}:
        levels = tones(tone(k, group, samples=2 * rate), rate, group=group)
        assert len(levels) == group // 2
        assert levels[k - 1] == pytest.approx(0, abs=0.1)
        assert (np.delete(levels, k - 1) < -60).all()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("amplitude", [0.0003, 0.003, 0.03])
def test_a_tone_under_sound_that_pauses_reads_its_own_level(k, amplitude):
    whistle = tone(k, 8, amplitude=amplitude)
    wav = syllables() + whistle
    assert tones(wav, RATE)[k - 1] == pytest.approx(power(whistle) - power(wav), abs=1)


def test_the_level_does_not_depend_on_the_volume():
    wav = syllables() + tone(1, 8)
    assert tones(wav / 100, RATE) == pytest.approx(tones(wav, RATE), abs=1e-3)


def test_noise_and_tones_elsewhere_are_no_whistle():
    assert tones(np.random.default_rng(0).normal(size=5 * RATE), RATE).max() < -25  # it has no pauses to listen in
    assert tones(syllables(), RATE).max() < -70
    assert tones(syllables() + tone(1.1, 8), RATE).max() < -70


def test_silence_has_a_number_and_padding_hides_nothing():
    assert (tones(np.zeros(RATE), RATE) == -120).all()
    wav = syllables() + tone(2, 8)
    padded = np.concatenate([np.zeros(RATE), wav, np.zeros(RATE)])
    assert tones(padded, RATE)[1] == pytest.approx(power(tone(2, 8)) - power(padded), abs=1)


def test_what_cannot_be_measured_is_refused():
    wav = syllables(RATE)
    for bad, rate, group, reason in (
        (wav * math.nan, RATE, 8, "NaN"),
        (wav[None], RATE, 8, "shape"),
        (wav, 4000, 8, "4000 Hz"),
        (wav, RATE, 1, "2 to 551"),
        (wav, RATE, 0, "groups of 0"),
    ):
        with pytest.raises(WavegenError, match=reason) as error:
            tones(bad, rate, group=group)
        assert "\n" not in str(error.value) and not isinstance(error.value, Unmeasurable)
    with pytest.raises(Unmeasurable, match="2 to 200"):
        tones(wav, 8000, group=256)
    with pytest.raises(Unmeasurable, match="longer clip"):
        tones(wav[:6000], RATE, group=500)


def test_the_report_shows_the_worst_line_of_each_take():
    wav = syllables(2 * RATE)
    whistling = wav + tone(3, 16, samples=len(wav))
    takes = [Take("a", wav, wav, RATE, "recordings"), Take("a", wav, whistling, RATE, "flow")]
    evaluation = evaluate(takes, metrics={}, group=16)
    assert evaluation.summary["flow"]["whistle"].mean == pytest.approx(tones(whistling, RATE, group=16)[2])
    assert evaluation.summary["recordings"]["whistle"].mean < -70
    assert "whistle (dB)" in evaluation.to_markdown()
    assert evaluate(takes, metrics={}, group=10).summary["flow"]["whistle"].mean < -60
    with pytest.raises(WavegenError, match=r"a \(recordings\): got groups of 1 "):
        evaluate(takes, metrics={}, group=1)


@pytest.mark.parametrize("group", [8, 16])
def test_recordings_do_not_whistle_and_a_whistle_in_them_is_heard(group, speech):
    wavs = [read(clip.path)[0].numpy() for clip in Corpus.open(speech / "kathleen", "test.csv")[:12]]
    assert np.mean([tones(wav, RATE, group=group).max() for wav in wavs]) < -68
    for wav in wavs:
        for amplitude, error in ((0.003, 0.5), (1e-4, 3)):  # -25 dB, and -55 dB, which is three steps of 16 bits
            whistle = tone(1, 8, amplitude=amplitude, samples=len(wav))
            level = tones(wav + whistle, RATE, group=group)[group // 8 - 1]
            assert level == pytest.approx(power(whistle) - power(wav + whistle), abs=error)
