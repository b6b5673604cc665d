"""Laws of the projections: a mel becomes sound with that mel, and a sound comes to agree with one."""

import pytest
import torch

from wavegen.audio.files import read
from wavegen.audio.griffin_lim import agree, griffin_lim
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError

MIDDLE = {
    "hifigan": MelSpec.named("hifigan"),
    "power 2": MelSpec(power=2, centring="middle"),
    "short window": MelSpec(rate=16000, n_fft=512, hop=160, win=400, bins=40, fmax=8000, centring="middle"),
}
EVERY = {**MIDDLE, "r9y9": MelSpec.named("r9y9"), "vocos": MelSpec.named("vocos")}
every = pytest.mark.parametrize("spec", EVERY.values(), ids=EVERY)
middle = pytest.mark.parametrize("spec", MIDDLE.values(), ids=MIDDLE)


def some_sound(spec, frames, batch=1):
    """Harmonics that glide under noise, a little like a voice."""
    time = torch.arange(frames * spec.hop) / spec.rate
    phase = 2 * torch.pi * (120 + 40 * torch.arange(batch).unsqueeze(1)) * (time + 0.1 * time**2)
    noise = torch.randn(batch, len(time), generator=torch.Generator().manual_seed(0))
    return 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 12)) + 0.005 * noise


def distance(spec, wav, mel):
    """Mean difference in natural logarithms of the amplitudes."""
    frames = mel.shape[-1]
    return (spec.amplitude(spec(wav)[..., :frames]).log() - spec.amplitude(mel).log()).abs().mean().item()


@every
def test_griffin_lim_gives_sound_of_its_length_with_the_mel(spec):
    mel = spec(some_sound(spec, 30, 2))
    wav = griffin_lim(mel, spec, iterations=40)
    assert wav.shape == (2, (mel.shape[-1] - (spec.centring == "start")) * spec.hop)
    assert distance(spec, wav, mel) < 0.25
    assert distance(spec, wav, mel) < distance(spec, griffin_lim(mel, spec, iterations=0), mel)


def test_griffin_lim_of_a_batch_is_that_of_its_items_and_repeats_by_seed():
    spec = EVERY["hifigan"]
    mel = spec(some_sound(spec, 20, 3))
    wav = griffin_lim(mel, spec, iterations=5, seed=5)
    items = torch.cat([griffin_lim(item[None], spec, iterations=5, seed=5) for item in mel])
    torch.testing.assert_close(wav, items, rtol=0, atol=1e-5)
    assert torch.equal(wav, griffin_lim(mel, spec, iterations=5, seed=5))
    assert not torch.allclose(wav, griffin_lim(mel, spec, iterations=5, seed=6), atol=1e-2)


def vocoded(wav):
    """The sound as a vocoder might make it: noisy, and with levels that are off."""
    swell = 1 + 0.5 * torch.sin(torch.arange(wav.shape[-1]) / 900)
    return wav * swell + 0.01 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(7))


@middle
def test_agreeing_brings_the_mel_closer_and_keeps_the_sound(spec):
    wav = some_sound(spec, 40, 2)
    mel, made = spec(wav), vocoded(wav)
    before = distance(spec, made, mel)
    once, more = (agree(made, mel, spec, iterations=iterations) for iterations in (1, 8))
    assert more.shape == made.shape and more.isfinite().all()
    assert distance(spec, once, mel) < 0.8 * before
    assert distance(spec, more, mel) < 0.5 * before
    assert (more - wav).square().mean() < (made - wav).square().mean(), "further from the sound than the vocoder's"


@middle
def test_a_sound_that_agrees_stays_also_where_the_bands_see_nothing(spec):
    wav = some_sound(spec, 40)
    difference = agree(wav, spec(wav), spec) - wav
    assert difference.square().mean().sqrt() < 0.01 * wav.square().mean().sqrt()
    inner = slice(spec.n_fft, -spec.n_fft)  # the edges are analysed with their reflection
    assert difference[:, inner].square().mean().sqrt() < 1e-4 * wav[:, inner].square().mean().sqrt()


@middle
def test_a_batch_agrees_as_its_items_do(spec):
    wav = some_sound(spec, 20, 3)
    mel, made = spec(wav), vocoded(wav)
    items = [agree(made[i : i + 1], mel[i : i + 1], spec) for i in range(3)]
    torch.testing.assert_close(agree(made, mel, spec), torch.cat(items), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_sounds_keep_their_length(frames):
    spec = MIDDLE["hifigan"]
    wav = some_sound(spec, frames)
    made = agree(wav, spec(some_sound(spec, 9))[..., :frames], spec)
    assert made.shape == wav.shape and made.isfinite().all()
    assert griffin_lim(spec(some_sound(spec, 9))[..., :frames], spec, iterations=2).shape == wav.shape


def test_silence_agrees_with_silence():
    spec = MIDDLE["hifigan"]
    nothing = torch.zeros(1, 20 * spec.hop)
    assert agree(nothing, spec(nothing), spec).abs().max() < 1e-3


def test_mels_that_cannot_be_are_refused(unchecked):
    spec = MIDDLE["hifigan"]
    wav = some_sound(spec, 20)
    mel = spec(wav)
    for wrong in (mel[:, 1:], mel.mT, mel * torch.nan):
        for use in (griffin_lim, lambda wrong, spec: agree(wav, wrong, spec)):
            with pytest.raises(WavegenError, match="expected"):
                use(wrong, spec)


def test_real_speech_comes_to_agree(speech):
    spec = MIDDLE["hifigan"]
    path = sorted((speech / "kathleen" / "wavs").iterdir())[0]
    wav = read(path, rate=spec.rate)[0][None]
    wav = wav[:, : wav.shape[1] // spec.hop * spec.hop]
    made = vocoded(wav)
    assert distance(spec, agree(made, spec(wav), spec), spec(wav)) < 0.5 * distance(spec, made, spec(wav))
