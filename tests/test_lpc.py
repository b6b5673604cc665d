"""Laws of linear prediction: invertible, exact as a change of variables, and white for what the mel describes."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from wavegen.audio.files import read
from wavegen.audio.lpc import levinson, linear_prediction, whiten
from wavegen.audio.mel import MelSpec
from wavegen.kernels.wavenet import filter_all_pole

SPECS = {
    "hifigan": MelSpec.named("hifigan"),
    "r9y9": MelSpec.named("r9y9"),
    "vocos": MelSpec.named("vocos"),
    "power 2": MelSpec(power=2, centring="middle"),
}
specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def some_mel(spec, frames, batch=1):
    """A mel whose envelope changes from frame to frame, at the level of speech."""
    mel = spec(0.05 * torch.randn(batch, (frames + 1) * spec.hop, generator=torch.Generator().manual_seed(0)))
    wobble = torch.randn(mel.shape, generator=torch.Generator().manual_seed(1))
    return (mel + wobble)[..., :frames]


def colour(u, coefficients, gain, past=None):
    past = np.zeros((len(u), coefficients.shape[-1])) if past is None else past
    wav, past = filter_all_pole(u.numpy(), coefficients.numpy(), gain.numpy(), past)
    return torch.from_numpy(wav), past


def test_levinson_solves_the_normal_equations():
    rng = np.random.default_rng(0)
    for order in (1, 2, 7, 32):
        wav = scipy.signal.lfilter([1], [1, -0.9, 0.4], rng.normal(size=1000))
        correlation = np.correlate(wav, wav, "full")[999 : 1000 + order] / 1000
        a, error = levinson(torch.from_numpy(correlation).expand(2, 3, -1))
        expected = scipy.linalg.solve_toeplitz(correlation[:-1], correlation[1:])
        np.testing.assert_allclose(a[1, 2].numpy(), expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(error[0, 1].numpy(), correlation[0] - expected @ correlation[1:], rtol=1e-9)


@specs
def test_every_filter_is_stable_and_there_are_four_to_a_frame(spec):
    mel = torch.cat([some_mel(spec, 7, 2), 4 * some_mel(spec, 7, 2), torch.full((1, spec.bins, 7), math.log(1e-5))])
    for order in (1, 16, 32):
        coefficients, gain = linear_prediction(mel, spec, order)
        assert coefficients.shape == (5, 28, order) and gain.shape == (5, 28)
        assert gain.isfinite().all() and (gain > 0).all()
        for a in coefficients.flatten(0, 1)[::5].double().numpy():
            assert np.abs(np.roots([1, *-a])).max() < 1


@specs
@pytest.mark.parametrize("order", [1, 16, 32])
def test_whitening_and_colouring_undo_each_other(spec, order):
    coefficients, gain = linear_prediction(some_mel(spec, 9, 2), spec, order)
    u = torch.randn(2, 9 * spec.hop, generator=torch.Generator().manual_seed(2))
    wav, _ = colour(u, coefficients, gain)
    torch.testing.assert_close(whiten(wav, coefficients, gain), u, rtol=0, atol=2e-3)


def test_colouring_goes_on_where_it_stopped():
    spec = SPECS["hifigan"]
    coefficients, gain = linear_prediction(some_mel(spec, 9, 2), spec, 16)
    u = torch.randn(2, 9 * spec.hop, generator=torch.Generator().manual_seed(2))
    whole, end = colour(u, coefficients, gain)
    first, past = colour(u[:, : 4 * spec.hop], coefficients[:, :16], gain[:, :16])
    second, past = colour(u[:, 4 * spec.hop :], coefficients[:, 16:], gain[:, 16:], past)
    assert torch.equal(whole, torch.cat([first, second], dim=1))
    assert np.array_equal(past, end)


def test_log_gain_is_the_log_determinant_of_whitening():
    spec = MelSpec(rate=8000, n_fft=64, hop=16, win=64, bins=20, fmax=4000, centring="middle")
    coefficients, gain = (value.double() for value in linear_prediction(some_mel(spec, 3), spec, 8))
    wav = torch.randn(1, 3 * spec.hop, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: whiten(x, coefficients, gain)[0], wav)[:, 0]
    sign, logdet = torch.linalg.slogdet(jacobian)
    assert sign == 1
    torch.testing.assert_close(logdet, -gain.log().sum() * 4)  # each filter is held for four samples


@specs
@pytest.mark.parametrize("poles", [[1.0], [1, -0.9], [1, -1.2, 0.7], [1, 0.5, 0.3]])
def test_stationary_noise_becomes_white_and_of_unit_variance(spec, poles):
    rng = np.random.default_rng(0)
    noise = scipy.signal.lfilter([1], poles, rng.normal(size=400 * spec.hop)) * 0.02
    wav = torch.from_numpy(noise).float()[None]
    u = whiten(wav, *linear_prediction(spec(wav)[..., :400], spec, 16))[0, spec.n_fft : -spec.n_fft]
    assert 0.85 < u.square().mean() < 1.15
    for lag in range(1, 9):
        assert abs((u[lag:] * u[:-lag]).mean() / u.square().mean()) < 0.1, f"correlated with lag {lag}"


def test_a_louder_sound_has_a_gain_so_much_larger():
    spec = SPECS["hifigan"]
    wav = 0.01 * torch.randn(1, 30 * spec.hop, generator=torch.Generator().manual_seed(0))
    quiet, loud = (linear_prediction(spec(level * wav), spec, 16)[1] for level in (1, 8))
    torch.testing.assert_close(loud, 8 * quiet, rtol=1e-3, atol=0)


def test_autocast_does_not_touch_the_excitation():
    spec = SPECS["hifigan"]
    mel, wav = some_mel(spec, 9), torch.randn(1, 9 * spec.hop) * 0.05
    exact = whiten(wav, *linear_prediction(mel, spec, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten(wav, *linear_prediction(mel, spec, 16)), exact)


@pytest.mark.parametrize(("corpus", "low", "high"), [("kathleen", 0.7, 1.4), ("ljspeech32", 0.5, 1.0)])
def test_real_speech_becomes_an_excitation_of_about_unit_variance(speech, corpus, low, high):
    """LJSpeech has little above 8 kHz, where the mel says nothing and the filters go on as below."""
    spec, powers = SPECS["hifigan"], []
    for path in sorted((speech / corpus / "wavs").iterdir())[:24:2]:
        wav, _ = read(path, rate=spec.rate)
        wav = wav[None, : len(wav) // spec.hop * spec.hop]
        powers.append(whiten(wav, *linear_prediction(spec(wav), spec, 32)).square().mean().item())
    assert low < np.mean(powers) < high
