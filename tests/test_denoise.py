"""Laws of the denoiser: what a vocoder always says goes, what it says now and then stays."""

import math
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import soundfile
import torch

import wavegen.cli
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.evaluation.compare import evaluate_vocoder
from wavegen.evaluation.tones import tones
from wavegen.vocoders.base import Vocoder
from wavegen.vocoders.denoise import Denoiser


@dataclass(eq=False, repr=False)
class Humming(Vocoder):
    """Noise as loud as the mel, a whistle at a quarter of the rate whatever the mel, and hiss at its temperature."""

    mel: MelSpec = MelSpec.named("hifigan")  # noqa: RUF009 - frozen
    style: int = 0
    hum: float = 0.01
    hiss: float = 0.0
    group: int = 16
    temperature: float = 1.0
    presets: ClassVar = {"tiny": {}}

    def __post_init__(self):
        super().__init__()

    def loss(self, batch):
        return {"loss": batch["wav"].square().mean()}

    def pieces(self, mels, style, draw, *, threads=1):
        loud = self.mel.amplitude(torch.cat(list(mels), dim=-1)).mean(1).repeat_interleave(self.mel.hop, dim=1)
        noise = torch.randn(2, loud.shape[1], generator=torch.Generator().manual_seed(draw.seed))
        whistle = self.hum * torch.cos(math.pi / 2 * torch.arange(loud.shape[1]) + 1)
        wav = 0.1 * (loud - 1e-4).clamp(min=0) * noise[0] + whistle * (1 if style is None else style[:, :1])
        yield (wav + self.hiss * draw.temperature * noise[1]).clamp(-1, 1)


def sound(seconds: float = 1.5, *, batch: int = 1) -> torch.Tensor:
    """Noise that swells and fades."""
    samples = round(seconds * 22050)
    noise = torch.randn(batch, samples, generator=torch.Generator().manual_seed(3))
    return 0.1 * noise * torch.linspace(0, 20, samples).sin().clamp(min=0)


def hum(samples: int, amplitude: float = 0.01) -> torch.Tensor:
    return amplitude * torch.cos(math.pi / 2 * torch.arange(samples) + 2)


def level(wav: torch.Tensor) -> float:
    return wav.square().mean().sqrt().item()


def test_a_steady_hum_goes_and_the_sound_stays():
    wav = sound()
    clean = Denoiser(Humming(), 1.0)(wav + hum(wav.shape[1]))
    assert clean.shape == wav.shape and clean.dtype == torch.float32
    assert level(clean - wav) < 0.5 * level(hum(wav.shape[1]))  # under sound, magnitudes do not simply add
    assert tones(clean[0], 22050)[1] < tones((wav + hum(wav.shape[1]))[0], 22050)[1] - 30


def test_strength_is_the_share_that_goes():
    steady = hum(22050)[None]
    middle = slice(2048, -2048)
    for strength in (0.25, 0.5, 0.75):
        left = Denoiser(Humming(), strength)(steady)[:, middle]
        assert left == pytest.approx((1 - strength) * steady[:, middle], abs=1e-4)
    assert level(Denoiser(Humming(), 2.0)(steady)[:, middle]) < 1e-5  # magnitudes stop at zero


def test_hiss_is_measured_at_the_temperature_it_is_made_at():
    net = Humming(hum=0.0, hiss=0.01)
    silence = net.mel(torch.zeros(1, 30000))
    for temperature in (0.3, None):
        hiss = net.synthesize(silence, seed=9, temperature=temperature)
        assert level(Denoiser(net, 1.0, temperature=temperature)(hiss)) < 0.6 * level(hiss)
    assert level(Denoiser(net, 1.0, temperature=0.0)(hiss)) == pytest.approx(level(hiss), rel=1e-3)


def test_the_bias_is_that_of_the_style():
    net, steady = Humming(style=2), hum(22050, 0.005)[None]
    assert level(Denoiser(net, 1.0, style=torch.tensor([0.5, 0.0]))(steady)) < 0.1 * level(steady)
    assert level(Denoiser(net, 1.0, style=torch.tensor([0.0, 0.0]))(steady)) == pytest.approx(level(steady), rel=1e-3)
    with pytest.raises(WavegenError, match="style"):
        Denoiser(net, 1.0)


def test_strength_zero_changes_nothing_and_silence_stays_silent():
    wav = sound(0.3, batch=2)
    assert torch.equal(Denoiser(Humming(), 0.0)(wav), wav)
    assert not Denoiser(Humming(), 1.0)(torch.zeros(2, 5000)).any()


def test_a_vocoder_without_bias_is_left_alone():
    wav = sound(0.5).clamp(-0.99, 0.99)
    assert Denoiser(Humming(hum=0.0), 1.0)(wav) == pytest.approx(wav, abs=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 255, 1024, 2047, 2048, 2816, 2817, 20000])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_a_stream_is_the_whole_sound_in_pieces_bit_for_bit(samples, strength):
    denoiser, wav = Denoiser(Humming(), strength), sound()[:, 4000 : 4000 + samples]
    whole = denoiser(wav)[0]
    assert len(whole) == samples and whole.abs().sum() <= samples
    for size in (7, 256, 2048, 9000):
        pieces = list(denoiser.stream(wav[0].split(size)))
        assert torch.equal(torch.cat([wav[0, :0], *pieces]), whole)


def test_a_stream_does_not_wait_for_the_end():
    denoiser, heard = Denoiser(Humming(), 0.5), 0

    def arriving():
        nonlocal heard
        for piece in sound()[0].split(256):
            heard += 256
            yield piece

    assert len(next(denoiser.stream(arriving()))) > 0
    assert heard <= 0.15 * 22050


def test_a_batch_of_three_is_three_batches_of_one():
    denoiser, wav = Denoiser(Humming(), 0.5), sound(0.4, batch=3)
    assert torch.equal(denoiser(wav), torch.cat([denoiser(item[None]) for item in wav]))


def test_loud_sound_stays_within_bounds():
    assert Denoiser(Humming(), 1.0)(sound() * 1e3).abs().max() == 1


def test_any_vocoder_can_be_denoised(vocoder_class, lively):
    net = lively(vocoder_class)
    silence = net.mel(torch.zeros(1, 12000))
    wav = net.synthesize(silence, seed=5)
    clean = Denoiser(net, 1.0)(wav)
    assert clean.shape == wav.shape and 0 < level(clean) < level(wav)


def test_bad_input_is_refused_in_one_sentence(unchecked):
    denoiser, wav = Denoiser(Humming(), 0.5), sound(0.2)
    broken = wav.clone()
    broken[0, 99] = math.nan
    for call, reason in (
        (lambda: Denoiser(Humming(), -0.1), "strength of -0.1"),
        (lambda: Denoiser(Humming(), math.nan), "strength of nan"),
        (lambda: Denoiser(Humming(), math.inf), "strength of inf"),
        (lambda: denoiser(broken), "NaN"),
        (lambda: Denoiser(Humming(), 0.0)(broken), "NaN"),
        (lambda: list(denoiser.stream([wav[0], broken[0]])), "NaN"),
        (lambda: denoiser(wav[0]), "batch"),
        (lambda: denoiser(wav[:0]), "batch"),
        (lambda: list(denoiser.stream([wav])), "one axis"),
    ):
        with pytest.raises(WavegenError, match=reason) as error:
            call()
        assert "\n" not in str(error.value) and "expected" in str(error.value)


@pytest.fixture
def clip(tmp_path):
    """A corpus of one clip, and its only member."""
    from wavegen.data.corpus import Corpus

    (tmp_path / "corpus").mkdir()
    soundfile.write(tmp_path / "corpus" / "a.wav", sound()[0].numpy(), 22050)
    return Corpus.open(tmp_path / "corpus")


def test_the_evaluation_finds_the_whistle_of_the_group_and_hears_it_go(clip):
    net = Humming()
    rows = [
        evaluate_vocoder(net, clip, against={}, metrics={}, **finish).summary
        for finish in ({}, {"finish": Denoiser(net, 1.0)})
    ]
    assert rows[0]["recordings"]["whistle"].mean < -60
    assert rows[0]["vocoder"]["whistle"].mean > -20
    assert rows[1]["vocoder"]["whistle"].mean < -45


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # it means the command line
def test_the_command_line_denoises_and_refuses(tmp_path, monkeypatch, capsys, clip, lively, vocoder_class):
    monkeypatch.chdir(tmp_path)
    net = lively(vocoder_class)
    net.save("net.safetensors")

    def called(line):
        monkeypatch.setattr(sys, "argv", ["wavegen", *line.split()])
        try:
            wavegen.cli.main()
        except SystemExit as end:
            return end.code
        return 0

    vocode = "vocode corpus/a.wav --vocoder net.safetensors --seed 3"
    assert called(f"{vocode} -o plain.wav") == called(f"{vocode} -o clean.wav --denoise 300") == 0
    plain, clean = (
        torch.from_numpy(soundfile.read(name, dtype="float32")[0])[None] for name in ("plain.wav", "clean.wav")
    )
    assert clean == pytest.approx(Denoiser(net, 300.0, seed=3)(plain), abs=1e-3)
    assert level(clean - plain) > 0.01 * level(plain)  # at a strength beyond use, as the model has hardly a bias
    for line, reason in (
        (f"{vocode} -o bad.wav --denoise -1", "--denoise"),
        (f"{vocode} -o bad.wav --denoise nan", "nan"),
        ("evaluate --reference corpus --synthesized corpus --denoise 1", "--denoise"),
    ):
        capsys.readouterr()
        assert called(line) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "bad.wav").exists()
