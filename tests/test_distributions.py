"""Laws of the laws: each is a density, its sampler follows it, and all are measured in one unit."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from wavegen.audio import mulaw
from wavegen.distributions import LAWS, MixtureOfGaussians, MixtureOfLogistics, MuLaw
from wavegen.errors import WavegenError

CONTINUOUS = [kind(components=k) for kind in LAWS.values() if kind is not MuLaw for k in (1, 3, 10)]
DISCRETE = [MuLaw(), MuLaw(classes=16), MuLaw(classes=1024)]
EVERY = [*CONTINUOUS, *DISCRETE]
laws = pytest.mark.parametrize("law", EVERY, ids=str)
KNOWN = {MixtureOfGaussians: scipy.stats.norm, MixtureOfLogistics: scipy.stats.logistic}
scipys = pytest.mark.parametrize(("kind", "known"), KNOWN.items(), ids=[kind.__name__ for kind in KNOWN])
continuous = pytest.mark.parametrize("law", CONTINUOUS, ids=str)


def some_params(law, *shape):
    """Parameters of a law that a network might put out for speech."""
    generator = torch.Generator().manual_seed(3)
    if isinstance(law, MuLaw):
        return 2 * torch.randn(*shape, law.width, generator=generator)
    k = law.components
    logits, means = torch.randn(2, *shape, k, generator=generator)
    log_scales = torch.randn(*shape, k, generator=generator) * 0.5 - 2
    return torch.cat([logits, 0.3 * means, log_scales][k == 1 :], dim=-1)


def draws(law, params, count, *, temperature=1.0, seed=5):
    noise = law.noise((count,), torch.Generator().manual_seed(seed))
    return law.sample(params.expand(count, -1), noise, temperature)


def mass(law, params, edges):
    """The probability of each interval between edges, by the midpoint rule."""
    middle = (edges[1:] + edges[:-1]) / 2
    return law.log_prob(params.double().expand(len(middle), -1), middle).exp() * (edges[1:] - edges[:-1])


def intervals(law):
    """The edges of the classes, or of narrow intervals over all that matters."""
    return mulaw.edges(law.classes).double() if isinstance(law, MuLaw) else torch.linspace(-20, 20, 8001).double()


@laws
def test_the_density_integrates_to_one(law):
    params = some_params(law)
    assert mass(law, params, intervals(law)).sum().item() == pytest.approx(1, abs=2e-3)


@laws
def test_the_sampler_follows_the_density(law):
    params, edges = some_params(law), intervals(law)
    expected = mass(law, params, edges).numpy()
    seen = np.histogram(draws(law, params, 40_000).double().numpy(), edges.numpy())[0]
    assert seen.sum() == 40_000
    groups = np.minimum((np.cumsum(expected) * 50).astype(int), 49)  # up to fifty groups of about equal probability
    expected, seen = (np.bincount(groups, counts) for counts in (expected / expected.sum() * 40_000, seen))
    likely = expected > 5
    assert likely.sum() > 8 and expected[~likely].sum() < 40
    expected, seen = expected[likely], seen[likely]
    assert scipy.stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3


@laws
def test_noise_is_uniform_and_of_the_law_own_shape_and_follows_from_the_seed(law):
    noise = law.noise((100, 200), torch.Generator().manual_seed(1))
    assert noise.shape == (100, 200, 2) and noise.dtype == torch.float32 and noise.isfinite().all()
    assert torch.equal(noise, law.noise((100, 200), torch.Generator().manual_seed(1)))
    assert not torch.equal(noise, law.noise((100, 200), torch.Generator().manual_seed(2)))
    assert scipy.stats.kstest(noise[..., 0].flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(noise.reshape(-1, 2).numpy().T)[0, 1]) < 0.03, "the two numbers hang together"


@laws
def test_without_temperature_the_most_probable_is_drawn(law):
    params = some_params(law)
    made = draws(law, params, 100, temperature=0.0)
    assert (made == made[0]).all()
    density = law.log_prob(params.expand(100, -1), made)
    others = draws(law, params, 2_000)
    if isinstance(law, MuLaw):  # the class of the highest probability, which need not be the one of the highest density
        assert law.encode(made[:1]).item() == params.argmax()
    elif law.components == 1:
        assert (law.log_prob(params.expand(2_000, -1), others) <= density[0]).all()
    else:
        logits, means, _ = law.split(params)
        assert made[0] == means[logits.argmax()]


@continuous
@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.5])
def test_temperature_scales_the_spread_of_a_component(law, temperature):
    params = some_params(law)
    if law.components > 1:
        params[0] = 100.0  # one component has all the weight
    warm, scaled = draws(law, params, 50), draws(law, params, 50, temperature=temperature)
    mean = law.split(params)[1][0]
    torch.testing.assert_close(scaled - mean, temperature * (warm - mean), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("law", DISCRETE, ids=str)
@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.5])
def test_temperature_sharpens_a_softmax(law, temperature):
    params = some_params(law)
    torch.testing.assert_close(draws(law, params, 500, temperature=temperature), draws(law, params / temperature, 500))


@scipys
def test_log_densities_and_quantiles_are_those_of_scipy(kind, known):
    law, x = kind(components=3), np.linspace(-2, 2, 101)
    params = some_params(law).double()
    logits, means, log_scales = (part.numpy() for part in law.split(params))
    weights, scales = np.exp(logits) / np.exp(logits).sum(), np.exp(log_scales)
    expected = np.log(known.pdf(x[:, None], means, scales) @ weights)
    np.testing.assert_allclose(law.log_prob(params.expand(101, -1), torch.from_numpy(x)), expected, rtol=1e-9)
    uniform = np.linspace(0.001, 0.999, 999)
    np.testing.assert_allclose(law.standard(torch.from_numpy(uniform)), known.ppf(uniform), rtol=1e-9, atol=1e-12)


def test_log_scales_stop_at_the_floor():
    law = MixtureOfGaussians(log_scale_min=-3.0)
    at, below = law.log_prob(torch.tensor([[0.1, -3.0], [0.1, -30.0]]), torch.tensor([0.1, 0.1]))
    assert at == below == pytest.approx(3 - 0.5 * math.log(2 * math.pi), abs=1e-5)


@laws
def test_densities_and_their_slopes_are_finite_far_out(law):
    for scale in (1.0, 50.0):
        params = (scale * torch.randn(200, law.width, generator=torch.Generator().manual_seed(0))).requires_grad_()
        x = torch.linspace(-1, 1, 200)
        log_prob = law.log_prob(params, x)
        (slope,) = torch.autograd.grad(log_prob.sum(), params)
        assert log_prob.isfinite().all() and slope.isfinite().all()


@pytest.mark.parametrize("classes", [2, 16, 255, 256, 1024, 65536])
def test_mu_law_codes_are_those_of_torchaudio(classes):
    law = MuLaw(classes)
    recorded = torch.arange(-32768, 32768) / 32768
    anything = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for x in (recorded, anything, anything**9):
        assert torch.equal(law.encode(x), mu_law_encoding(x, classes))
    codes = torch.arange(classes)
    torch.testing.assert_close(law.decode(codes), mu_law_decoding(codes, classes).float(), rtol=0, atol=1e-6)
    assert torch.equal(law.encode(law.decode(codes)), codes)


@pytest.mark.parametrize("law", DISCRETE, ids=str)
def test_a_flat_density_is_flat_whatever_the_classes(law):
    """With each class as probable as it is wide, the density is one half everywhere in [-1, 1]."""
    x = law.decode(torch.arange(law.classes))
    even = law.log_prob(torch.zeros(law.classes, law.classes), x)  # log(1 / classes) - log(width)
    log_width = -even - math.log(law.classes)
    assert log_width.double().exp().sum().item() == pytest.approx(2, rel=1e-5)
    everywhere = torch.linspace(-1, 1, 999)
    flat = law.log_prob(log_width.expand(999, -1), everywhere)
    torch.testing.assert_close(flat, torch.full_like(flat, -math.log(2)), rtol=0, atol=1e-3)


@scipys
def test_nats_mean_the_same_for_classes_and_densities(kind, known):
    """One density, given as a law and as the probabilities of mu-law classes, has the same likelihood."""
    law, classes, scale = kind(), MuLaw(256), 0.05
    x = draws(law, torch.tensor([0.02, math.log(scale)]), 5_000).clamp(-0.999, 0.999)
    edges = intervals(classes).numpy()
    logits = torch.from_numpy(np.diff(known.cdf(edges, 0.02, scale))).clamp(min=1e-12).log().float()
    exact = law.log_prob(torch.tensor([0.02, math.log(scale)]).expand(5_000, -1), x).mean()
    coarse = classes.log_prob(logits.expand(5_000, -1), x).mean()
    assert coarse.item() == pytest.approx(exact.item(), abs=0.01)


def test_laws_of_nothing_are_refused():
    for kind, size in ((MixtureOfGaussians, 0), (MixtureOfLogistics, -1), (MuLaw, 1)):
        with pytest.raises(WavegenError, match="expected at least"):
            kind(size)
