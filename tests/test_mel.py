"""Laws of the mel conventions, the transform, conversion and Griffin-Lim."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from jaxtyping import TypeCheckError
from torch import Tensor

from wavegen.audio.files import read
from wavegen.audio.griffin_lim import griffin_lim
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError

NAMES = ("tacotron2", "hifigan", "r9y9", "parallel_wavegan", "parallel_wavegan_24k", "vocos")
SPECS = [MelSpec.named(name) for name in NAMES]


def glide(seconds: float = 0.5, rate: int = 22050, seed: int = 0) -> Tensor:
    """Harmonics of a gliding pitch, with a little noise and some silence."""
    time = torch.arange(int(seconds * rate)) / rate
    phase = 2 * torch.pi * (140 + 30 * seed + 60 * time) * time
    wav = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(0) * 0.2
    wav += 0.01 * torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    wav[: rate // 20] = 0
    return wav


def by_librosa(name: str, wav: np.ndarray) -> np.ndarray:
    """Each convention as its own authors compute it, in librosa's words."""
    slaney: dict[str, Any] = {"sr": 22050, "n_fft": 1024, "hop_length": 256, "n_mels": 80, "power": 1.0}
    slaney.update(pad_mode="reflect", fmin=0, fmax=8000)
    if name == "tacotron2":
        return np.log(np.clip(librosa.feature.melspectrogram(y=wav, **slaney), 1e-5, None))
    if name == "hifigan":
        padded = np.pad(wav, ((0, 0), (384, 384)), mode="reflect")
        spectrum = librosa.stft(padded, n_fft=1024, hop_length=256, center=False)
        magnitude = np.sqrt(np.abs(spectrum) ** 2 + 1e-9)
        basis = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
        return np.log(np.clip(basis @ magnitude, 1e-5, None))
    if name == "vocos":
        slaney.update(sr=24000, n_mels=100, fmax=12000, htk=True, norm=None)
        return np.log(np.clip(librosa.feature.melspectrogram(y=wav, **slaney), 1e-7, None))
    slaney.update(fmin=125 if name == "r9y9" else 80, fmax=7600)
    if name == "parallel_wavegan_24k":
        slaney.update(sr=24000, n_fft=2048, hop_length=300, win_length=1200)
    return np.log10(np.maximum(1e-10, librosa.feature.melspectrogram(y=wav, **slaney)))


@pytest.mark.parametrize("name", NAMES)
def test_a_named_convention_gives_librosas_numbers(name: str):
    wav = torch.stack([glide(seed=0), glide(seed=1)])
    expected = torch.from_numpy(by_librosa(name, wav.numpy()))
    mel = MelSpec.named(name)(wav)
    assert mel.shape == expected.shape and mel.dtype == torch.float32
    loud = expected > expected.max() - 7  # far below the loudest, the rounding of the Fourier transform is all there is
    assert (mel - expected)[loud].abs().max() < 1e-3
    assert (mel.exp() - expected.exp()).abs().max() < 1e-4 * expected.exp().max()


def test_vocos_and_tacotron2_give_torchaudios_numbers():
    wav = glide()[None]
    common: dict[str, Any] = {"n_fft": 1024, "hop_length": 256, "power": 1}
    vocos = torchaudio.transforms.MelSpectrogram(24000, n_mels=100, **common)
    tacotron2 = torchaudio.transforms.MelSpectrogram(
        22050, n_mels=80, f_max=8000.0, norm="slaney", mel_scale="slaney", **common
    )
    assert torch.allclose(MelSpec.named("vocos")(wav), vocos(wav).clamp(min=1e-7).log(), atol=1e-4)
    assert torch.allclose(MelSpec.named("tacotron2")(wav), tacotron2(wav).clamp(min=1e-5).log(), atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_batch_is_its_items_and_its_length_is_foretold(spec: MelSpec):
    for samples in (2000, 2049, 2304, 9999):
        wav = torch.stack([glide(seed=seed)[:samples] for seed in range(3)])
        mel = spec(wav)
        assert mel.shape == (3, spec.bins, spec.frames(samples))
        assert torch.allclose(mel, torch.cat([spec(item[None]) for item in wav]), atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_long_recording_equals_its_middle(spec: MelSpec):
    """The transform works through long recordings in parts; no seam shows."""
    wav = glide(seconds=60)[None]
    start = 40 * spec.rate // spec.hop
    piece = spec(wav[:, start * spec.hop : (start + 100) * spec.hop])
    assert torch.allclose(spec(wav)[..., start + 5 : start + 95], piece[..., 5:95], atol=1e-4)


@pytest.mark.parametrize("spec", [*SPECS, replace(SPECS[0], power=2), replace(SPECS[1], epsilon=1e-6)], ids=str)
def test_gradients_are_finite_even_in_silence(spec: MelSpec):
    wav = torch.stack([glide(), torch.zeros(11025)]).requires_grad_()
    spec(wav).sum().backward()
    assert wav.grad is not None and wav.grad.isfinite().all()
    assert wav.grad[0].abs().max() > 0


def test_the_gradient_is_that_of_finite_differences():
    spec = MelSpec(rate=8000, n_fft=64, hop=16, win=48, bins=8, fmax=None, floor=1e-8, centring="middle", epsilon=1e-6)
    wav = glide(0.02, 8000, 1)[None].double().add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(spec, wav)


def test_neither_autocast_nor_inference_mode_spoils_it():
    wav = glide()[None]
    spec = MelSpec(fmin=31.0)  # its tables are born under inference mode
    with torch.inference_mode():
        expected = spec(wav).clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = spec(wav.requires_grad_())
        mel.sum().backward()
    assert torch.equal(mel, expected) and mel.dtype == torch.float32
    assert spec(wav.detach().double()).dtype == torch.float64


def test_frames_lie_where_the_convention_says():
    """A click is loudest in the frame that is centred on it."""
    wav = torch.zeros(1, 8192)
    for spec, offset in ((MelSpec.named("tacotron2"), 0), (MelSpec.named("hifigan"), 128)):
        for frame in (3, 10, 20):
            wav.zero_()[0, frame * spec.hop + offset] = 1
            assert spec(wav).sum(1).argmax() == frame


def test_conventions_are_equal_exactly_when_they_are_one():
    assert len({*SPECS, *(MelSpec.named(name) for name in NAMES)}) == len(NAMES)
    assert len({spec.hash for spec in SPECS}) == len(NAMES)
    assert MelSpec(fmin=0.0, fmax=11025.0) == MelSpec(fmin=0.0, fmax=None) and MelSpec(fmax=None).fmax == 11025
    standardised = replace(SPECS[2], mean=(0.0,) * 80, std=(1.0,) * 80)
    assert standardised != SPECS[2] and standardised.hash != SPECS[2].hash
    for spec in (*SPECS, standardised):
        again = MelSpec(**json.loads(json.dumps(asdict(spec))))
        assert again == spec and hash(again) == hash(spec) and again.hash == spec.hash


def test_hashes_stay_what_files_already_hold():
    assert {name: MelSpec.named(name).hash for name in NAMES} == {
        "tacotron2": "6215a320c6fe",
        "hifigan": "6ca80d5a9a19",
        "r9y9": "a9881c3a972b",
        "parallel_wavegan": "541d331dbeda",
        "parallel_wavegan_24k": "bc99a646a7bc",
        "vocos": "4e90f058d24f",
    }


def test_its_name_says_what_it_is():
    assert str(MelSpec.named("hifigan")).startswith("hifigan (")
    assert "fmin=50.0" in str(MelSpec(fmin=50.0)) and "hop" not in str(MelSpec(fmin=50.0))


@pytest.mark.parametrize("spec", [*SPECS, replace(SPECS[2], mean=(-2.0,) * 80, std=(0.5,) * 80)], ids=str)
def test_amplitude_undoes_the_logarithm(spec: MelSpec):
    wav = glide()[None]
    plain = replace(spec, log="ln", mean=None, std=None)
    assert torch.allclose(spec.amplitude(spec(wav)), plain(wav).exp(), rtol=1e-4, atol=1e-7)
    double = spec.amplitude(spec(wav.double()))
    assert double.dtype == torch.float64


def test_amplitude_of_a_power_mel_is_a_magnitude():
    spec = MelSpec(power=2, floor=1e-10)
    loud, soft = spec.amplitude(spec(torch.stack([glide(), glide() / 4])))
    assert torch.allclose(loud[:, 10:], 4 * soft[:, 10:], rtol=1e-3)


def test_conversion_equals_extraction_where_it_is_exact():
    wav = glide()[None]
    r9y9 = MelSpec.named("r9y9")
    statistics: dict[str, Any] = {"mean": tuple(np.linspace(-3, 1, 80)), "std": tuple(np.linspace(0.5, 2, 80))}
    others = [
        replace(r9y9, log="ln"),
        replace(r9y9, floor=1e-5),
        replace(r9y9, **statistics),
        replace(r9y9, log="ln", floor=1e-3, **statistics),
    ]
    for other in others:
        assert torch.allclose(r9y9.convert(r9y9(wav), other), other(wav), atol=1e-4)
        back = replace(r9y9, floor=other.floor)
        assert torch.allclose(other.convert(other(wav), back), back(wav), atol=1e-4)
    mel = torch.randn(1, 80, 7)
    assert torch.equal(r9y9.convert(mel, r9y9), mel)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        *[("rate", 24000), ("n_fft", 2048), ("hop", 128), ("win", 512), ("bins", 40), ("fmin", 50.0), ("fmax", 7600.0)],
        *[("scale", "htk"), ("norm", None), ("power", 2), ("epsilon", 1e-9), ("floor", 1e-6), ("centring", "middle")],
    ],
)
def test_conversion_refuses_what_is_not_exact_and_names_both(changed: str, value: Any):
    ours = MelSpec()
    other = replace(ours, **{changed: value})
    with pytest.raises(WavegenError, match=f"(?s){ours.hash}.*{other.hash}.*{changed}.*extract it again"):
        ours.convert(ours(glide()[None]), other)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hop": 0}, "positive integers"),
        ({"n_fft": 10**12}, "65536"),
        ({"win": 2048}, "hop <= win <= n_fft"),
        ({"fmin": 9000.0}, "fmin < fmax"),
        ({"fmax": 20000.0}, "fmax <= 11025"),
        ({"fmin": float("nan")}, "fmin < fmax"),
        ({"floor": 0.0}, "floor"),
        ({"centring": "middle", "hop": 255}, "even hop"),
        ({"mean": (0.0,) * 80}, "mean and std"),
        ({"mean": [0.0] * 79, "std": [1.0] * 79}, "80 values"),
        ({"mean": [0.0] * 80, "std": [0.0] * 80}, "positive std"),
    ],
)
def test_an_impossible_convention_is_refused(change: dict[str, Any], expected: str):
    with pytest.raises(WavegenError, match=expected):
        MelSpec(**change)


@pytest.mark.parametrize(
    "change",
    [{"rate": "22050"}, {"bins": 2.5}, {"fmax": "high"}, {"scale": "bark"}, {"norm": 1}, {"log": "dB"}, {"power": 3},
     {"centring": "left"}, {"mean": 1.0}, {"std": "abc"}],
    ids=str,
)  # fmt: skip
def test_a_field_of_another_kind_is_refused(change: dict[str, Any]):
    with pytest.raises((WavegenError, TypeCheckError)):  # the latter where annotations are checked
        MelSpec(**change)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WavegenError, match="no mel convention 'waveglow'; choose one of tacotron2, hifigan"):
        MelSpec.named("waveglow")


def test_bad_wavs_are_refused():
    spec = MelSpec.named("hifigan")
    with pytest.raises(WavegenError, match="0"):
        spec(torch.zeros(1, 0))
    with pytest.raises(WavegenError, match="384 samples, expected 385 or more"):
        spec(torch.zeros(1, 384))
    with pytest.raises(WavegenError, match="NaN"):
        spec(torch.full((1, 4000), torch.nan))
    assert spec(torch.zeros(1, 385)).shape == (1, 80, 1)


def test_bad_mels_are_refused():
    spec = MelSpec.named("hifigan")
    for use in (spec.amplitude, lambda mel: spec.convert(mel, spec), lambda mel: griffin_lim(mel, spec)):
        with pytest.raises(WavegenError, match="80 bins.*transpose"):
            use(torch.zeros(1, 7, 80))
        with pytest.raises(WavegenError, match="80 bins.*extract it as hifigan"):
            use(torch.zeros(1, 100, 7))
        with pytest.raises(WavegenError, match="at least one frame"):
            use(torch.zeros(1, 80, 0))
        with pytest.raises(WavegenError, match="NaN"):
            use(torch.full((1, 80, 7), torch.nan))


@pytest.mark.parametrize("spec", [*SPECS, replace(SPECS[0], power=2)], ids=str)
def test_griffin_lim_gives_the_mel_back(spec: MelSpec):
    mel = spec(glide()[None])
    wav = griffin_lim(mel, spec, iterations=30)
    assert wav.shape == (1, spec.hop * (mel.shape[-1] - (spec.centring == "start")))
    kept = spec.amplitude(spec(wav))
    wanted = spec.amplitude(mel)[..., : kept.shape[-1]]
    assert (kept - wanted).norm() < 0.15 * wanted.norm()


def test_griffin_lim_of_a_batch_is_that_of_its_items_and_repeats_by_seed():
    spec = MelSpec.named("hifigan")
    mel = spec(torch.stack([glide(seed=seed) for seed in range(3)]))
    wav = griffin_lim(mel, spec, iterations=10, seed=5)
    items = torch.cat([griffin_lim(item[None], spec, iterations=10, seed=5) for item in mel])
    assert torch.allclose(wav, items, atol=1e-4)
    assert torch.equal(wav, griffin_lim(mel, spec, iterations=10, seed=5))
    assert not torch.allclose(wav, griffin_lim(mel, spec, iterations=10, seed=6), atol=1e-2)


@pytest.mark.parametrize("name", ["tacotron2", "hifigan", "parallel_wavegan_24k"])
def test_griffin_lim_puts_a_burst_where_it_was(name: str):
    spec = MelSpec.named(name)
    wav = torch.zeros(1, 30 * spec.hop)
    wav[0, 5000:5600] = 0.1 * torch.randn(600, generator=torch.Generator().manual_seed(0))

    def middle(sound: Tensor) -> float:
        energy = sound.double().square()[0]
        return float((energy * torch.arange(len(energy))).sum() / energy.sum())

    assert abs(middle(griffin_lim(spec(wav), spec)) - middle(wav)) < spec.hop / 4


@pytest.mark.skipif("WAVEGEN_SPEECH" not in os.environ, reason="needs WAVEGEN_SPEECH, a folder of real speech")
def test_griffin_lim_keeps_real_speech_clear():
    pesq = pytest.importorskip("pesq", reason="needs the extra eval")
    folder = Path(os.environ["WAVEGEN_SPEECH"]) / "kathleen"
    name = (folder / "test.csv").read_text(encoding="utf-8").split("|")[0]
    wav, rate = read(folder / "wavs" / f"{name}.flac")
    spec = MelSpec.named("hifigan")
    copy = griffin_lim(spec(wav[None]), spec)[0]
    ours, theirs = (librosa.resample(x.numpy(), orig_sr=rate, target_sr=16000) for x in (copy, wav[: len(copy)]))
    assert pesq.pesq(16000, theirs, ours, "wb") > 2.3
