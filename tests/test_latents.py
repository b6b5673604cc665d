"""Laws of every latent-variable model: densities that integrate to one, KLs that agree, remedies that hold."""

import copy
import math
from dataclasses import replace
from itertools import product
from typing import get_args, get_type_hints

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.flows.base import gaussian
from wavegen.latents import VAE, Collapse, InfoMax, annealed, cyclical, linear
from wavegen.latents.base import Drawn
from wavegen.latents.collapse import active_units
from wavegen.latents.infomax import agreement, distorted
from wavegen.latents.posteriors import Diagonal, divergence
from wavegen.model import Model

MEL = replace(MelSpec.named("hifigan"), bins=8)
NAMES = ("low", "high")
REACH, SIDE = 12.0, 120  # a square of the plane of latents, and cells along it


def kinds(name):
    return get_args(get_type_hints(VAE)[name])


def accepted():
    """Fields of every posterior, prior and choice of labels that go together."""
    for posterior, prior, labels in product(kinds("posterior"), kinds("prior"), ((), NAMES)):
        fields = {"posterior": posterior, "prior": prior, "labels": labels}
        try:
            VAE.preset("tiny", **fields)
        except WavegenError:
            continue
        yield fields


def named(fields):
    return "-".join((fields["posterior"], fields["prior"], *(["labels"] if fields["labels"] else [])))


FIELDS = list(accepted())
PAIRS = [fields for fields in FIELDS if fields["posterior"] != "point"]
# one of each: labels where the prior needs them only; and each posterior and prior once, with the plainest of the other
BARE = [fields for fields in PAIRS if bool(fields["labels"]) == (fields["prior"] == "conditional")]
PLAIN = [fields for fields in FIELDS if bool(fields["labels"]) == (fields["prior"] == "conditional")
         and (fields["prior"] == "normal" or fields["posterior"] == "diagonal")]  # fmt: skip
every_model = pytest.mark.parametrize("fields", FIELDS, ids=named)
every_density = pytest.mark.parametrize("fields", PAIRS, ids=named)


@pytest.fixture
def model(latent_class, lively):
    """Makes a small model of the class with other fields."""
    return lambda **changes: lively(latent_class, mel=MEL, **changes)


@pytest.fixture
def vae(lively):
    return lambda **changes: lively(VAE, **{"mel": MEL, "latent": 2, **changes})


def clips(n=6, *, frames=20, seed=0, gap=2.0):
    """Mels of two kinds, in turn: loud low bins and loud high ones, at levels and lengths of their own."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(n) % 2
    tilt = (1 - 2 * kind).view(-1, 1, 1) * torch.linspace(1, -1, MEL.bins).unsqueeze(1)
    mel = (
        -5
        + gap * tilt
        + torch.randn(n, 1, 1, generator=generator)
        + torch.randn(n, MEL.bins, frames, generator=generator)
    )
    lengths = torch.randint(frames // 2, frames + 1, (n,), generator=generator)
    lengths[-1] = frames
    lowest = math.log(MEL.floor)
    here = torch.arange(frames) < lengths.unsqueeze(1)
    return {"mel": torch.where(here.unsqueeze(1), mel, lowest), "frames": lengths, "label": kind}


def given(model, batch):
    """The batch as the model wants it, with labels or without."""
    return {name: value for name, value in batch.items() if name != "label" or model.labels}


def labels_of(model, n):
    return torch.arange(n) % len(model.labels) if model.labels else None


def grid():
    line = (torch.arange(SIDE) + 0.5) * (2 * REACH / SIDE) - REACH
    return torch.cartesian_prod(line, line), (2 * REACH / SIDE) ** 2


def log_posterior(model, z, features):
    """log q(z | x) by the maps alone, from a latent to noise."""
    u, shrunk = model.levels(z)
    noise, logdet = model.law(u, features.expand(len(z), -1))
    return gaussian(noise) + logdet + shrunk


def log_prior(model, z, label):
    cond = model.classes(len(z), label) if model.labels else None
    u, shrunk = model.levels(z)
    return model.prior_law.log_prob(u, cond) + shrunk


def features_of(model, batch):
    with torch.no_grad():
        return model.featured(batch["mel"], batch["frames"], batch["label"] if model.labels else None)


def steps(model, batch_at, *, count, lr=1e-2):
    """What the loss was at each of so many steps of training."""
    model.train()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=lr), []
    for step in range(count):
        optimizer.zero_grad()
        scalars = model.loss(batch_at(step))
        scalars["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append({name: float(value.detach()) for name, value in scalars.items()})
    model.eval()
    return losses


def assert_near(found, expected, *, within=1e-4):
    torch.testing.assert_close(found, expected, rtol=0, atol=within)


def test_every_posterior_goes_with_every_prior_that_makes_sense():
    for posterior, prior in product(kinds("posterior"), kinds("prior")):
        found = [fields["labels"] for fields in FIELDS if (fields["posterior"], fields["prior"]) == (posterior, prior)]
        sensible = prior == "normal" or posterior != "hierarchical"  # whose groups have a prior of their own
        expected = {"conditional": [NAMES], "vamp": [()]}.get(prior, [(), NAMES])
        assert found == (expected if sensible else [])


# Densities


@pytest.mark.parametrize("fields", BARE, ids=named)
def test_posterior_and_prior_are_densities_and_draws_follow_them(fields, vae):
    model, batch = vae(**fields), clips(2)
    points, area = grid()
    label = batch["label"][:1].expand(len(points)) if model.labels else None
    many = 2500
    with torch.no_grad():
        features = features_of(model, batch)[:1]
        drawn = model.drawn(features.expand(many, -1), torch.randn(many, 2), None if label is None else label[:many])
        sampled = model.sample(many, label=None if label is None else label[:many], seed=0)
        laws = {
            "posterior": (log_posterior(model, points, features), drawn.z),
            "prior": (log_prior(model, points, label), sampled),
        }
    for law, (density, draws) in laws.items():
        mass = density.exp() * area
        assert mass.sum() == pytest.approx(1, abs=1e-2), law
        for wave in torch.tensor([[0.3, 0.0], [1.0, 0.0], [0.0, 1.0], [0.7, -0.7], [1.0, 2.0]]):
            for part in (torch.sin, torch.cos):  # of its characteristic function
                assert_near(part(draws @ wave).mean(), mass @ part(points @ wave), within=0.06)


@every_density
def test_what_is_drawn_comes_with_its_densities(fields, vae):
    model, batch = vae(**fields), clips()
    label = batch["label"] if model.labels else None
    with torch.no_grad():
        drawn = model.draw(batch["mel"], batch["frames"], label=label)
        features = features_of(model, batch)
        expected = torch.cat(
            [log_posterior(model, z[None], own[None]) for z, own in zip(drawn.z, features, strict=True)]
        )
        torch.testing.assert_close(drawn.log_q, expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(drawn.log_p, log_prior(model, drawn.z, label), rtol=0, atol=1e-3)
    if drawn.each is None:
        torch.testing.assert_close(drawn.kl, drawn.log_q - drawn.log_p)
    else:
        assert drawn.each.shape == drawn.z.shape and (drawn.each >= -1e-5).all()
        torch.testing.assert_close(drawn.kl, drawn.each.sum(1))


CLOSED = [fields for fields in PAIRS if fields["prior"] in ("normal", "conditional") and
          fields["posterior"] in ("diagonal", "hierarchical")]  # fmt: skip


@pytest.mark.parametrize("remedy", [{}, {"norm": 0.7}, {"rate": 0.4}, {"norm": 0.7, "rate": 0.4}], ids=str)
@pytest.mark.parametrize("fields", CLOSED, ids=named)
def test_the_kl_in_closed_form_is_that_of_draws(fields, remedy, vae):
    if remedy and fields["posterior"] == "hierarchical":
        pytest.skip("these remedies are of diagonal posteriors")
    model, batch, many = vae(latent=4, **fields, **remedy), clips(1), 20_000
    label = batch["label"].expand(many) if model.labels else None
    with torch.no_grad():
        features = features_of(model, batch).expand(many, -1)
        drawn = model.drawn(features, torch.randn(many, 4, generator=torch.Generator().manual_seed(1)), label)
    assert drawn.each is not None
    apart = drawn.log_q - drawn.log_p - drawn.kl
    assert apart.std() > 0.1 and drawn.kl.mean() > 0.1  # there is something to agree on
    assert apart.mean().abs() < 3 * apart.std() / many**0.5


@pytest.mark.parametrize("prior", ["normal", "conditional"])
def test_torch_gives_the_same_kl(prior, vae):
    model, batch = vae(prior=prior, labels=NAMES), clips()
    with torch.no_grad():
        drawn = model.draw(batch["mel"], batch["frames"], label=batch["label"])
        mean, log_std = model.law.moments(drawn.z, features_of(model, batch))
        centre, log_width = torch.zeros_like(mean), torch.zeros_like(mean)
        if prior == "conditional":
            centre, log_width = model.prior_law.transform.moments(drawn.z, model.classes(6, batch["label"]))
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(centre, log_width.exp()))
    torch.testing.assert_close(drawn.each, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(drawn.log_q, Normal(mean, log_std.exp()).log_prob(drawn.z).sum(1), rtol=0, atol=1e-4)


def test_torch_gives_the_same_divergence():
    q, p = torch.randn(2, 50, 3), torch.randn(2, 50, 3)
    expected = kl_divergence(Normal(q[0], q[1].exp()), Normal(p[0], p[1].exp()))
    torch.testing.assert_close(divergence(tuple(q), tuple(p)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(divergence(tuple(q), tuple(q)), torch.zeros(50, 3))


@pytest.mark.parametrize("fields", BARE, ids=named)
def test_the_bounds_are_below_the_evidence_and_many_draws_come_near_it(fields, vae):
    model, batch, many = vae(mel=replace(MEL, bins=2), mel_std=1.0, **fields), clips(1, frames=4), 1000
    for part in model.law.modules():
        if isinstance(part, Diagonal):  # posteriors as wide as the prior, that few draws cover what they have to
            part.net.weight.data[:2] /= 3
            part.net.bias.data[2:] += 1
    mel, frames = batch["mel"][:, :2], batch["frames"]
    points, area = grid()
    points = points[points.abs().amax(1) < 8]
    label = batch["label"].expand(len(points)) if model.labels else None
    with torch.no_grad():
        likely = model.log_likelihood(mel.expand(len(points), -1, -1), frames.expand(len(points)), points, label=label)
        evidence = (likely + log_prior(model, points, label)).logsumexp(0) + math.log(area)
    repeated = {"mel": mel.expand(many, -1, -1), "frames": frames.expand(many), "label": batch["label"].expand(many)}
    torch.manual_seed(0)
    elbo, weighted = model.bound(given(model, repeated), k=10)
    assert elbo.mean() < weighted.mean() < evidence and (elbo <= weighted).all()
    together = weighted.logsumexp(0) - math.log(many)  # exp of the bound is the evidence in the mean
    assert together == pytest.approx(float(evidence), abs=0.2)


def test_one_draw_of_the_bound_is_minus_the_loss_in_nats(vae):
    for prior in ("normal", "mixture"):
        model, batch, many = vae(prior=prior).train(), clips(1), 500
        batch = {name: value.expand(many, *value.shape[1:]) for name, value in given(model, batch).items()}
        torch.manual_seed(0)
        elbo, weighted = model.bound(batch, k=1)
        torch.testing.assert_close(elbo, weighted)
        nats = model.loss(batch)["nats"]
        assert elbo.std() > 0 and (elbo.mean() + nats).abs() < 4 * elbo.std() * (2 / many) ** 0.5


@pytest.mark.parametrize("history", [False, True])
def test_the_likelihood_is_a_density_of_mels(history, vae):
    model = vae(mel=replace(MEL, bins=1), stride=1, history=history)
    line = torch.arange(-40, 30, 0.4)
    pairs = torch.cartesian_prod(line, line)  # one bin, two frames
    with torch.no_grad():
        z = torch.randn(1, 2).expand(len(pairs), -1)
        likely = model.log_likelihood(pairs.unsqueeze(1), torch.full((len(pairs),), 2), z)
    assert likely.exp().sum() * 0.4**2 == pytest.approx(1, abs=1e-2)


# Utterances


@every_model
def test_padding_and_the_rest_of_the_batch_change_nothing(fields, vae):
    model, batch = vae(**fields), clips(3)
    mel, frames, label = batch["mel"], batch["frames"], batch["label"] if model.labels else None
    assert frames.unique().numel() > 1
    centres = model.encode(mel, frames, label=label)
    likely = model.log_likelihood(mel, frames, centres, label=label)
    assert centres.shape == (3, 2) and not centres.requires_grad and likely.isfinite().all()
    assert not torch.allclose(centres[0], centres[1])
    longer = torch.nn.functional.pad(mel, (0, 13), value=7.0)  # whatever is there
    assert_near(model.encode(longer, frames, label=label), centres)
    assert_near(model.log_likelihood(longer, frames, centres, label=label) / 100, likely / 100)
    for item in range(3):
        own, count = slice(item, item + 1), int(frames[item])
        told = None if label is None else label[own]
        assert_near(model.encode(mel[own, :, :count], label=told), centres[own])
        alone = model.log_likelihood(mel[own, :, :count], frames[own], centres[own], label=told)
        assert_near(alone / 100, likely[own] / 100)


@pytest.mark.parametrize(
    "changes", [{"history": True}, {"content": 3}, {"stride": 3, "layers": 5, "depth": 5}], ids=str
)
def test_padding_changes_nothing_for_any_decoder(changes, vae):
    model, batch = vae(**changes), clips(3)
    mel, frames, z = batch["mel"], batch["frames"], torch.randn(3, 2)
    likely = model.log_likelihood(mel, frames, z)
    assert_near(model.log_likelihood(torch.nn.functional.pad(mel, (0, 13), value=7.0), frames, z) / 100, likely / 100)
    assert_near(model.log_likelihood(mel[:1, :, : frames[0]], frames[:1], z[:1]) / 100, likely[:1] / 100)


def test_in_half_precision_the_loss_is_nearly_the_same(model):
    net, batch = model().train(), clips()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(net.loss(given(net, batch))["loss"])
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)


def test_a_plain_autoencoder_draws_no_noise(vae):
    model, batch = vae(posterior="point"), clips()
    mel, frames = batch["mel"], batch["frames"]
    first, second = (model.draw(mel, frames).z for _ in range(2))
    assert torch.equal(first, second) and torch.equal(first, model.encode(mel, frames))
    losses = [model.train().loss(given(model, batch)) for _ in range(2)]
    assert torch.equal(losses[0]["loss"], losses[1]["loss"])
    assert losses[0]["kl"] == 0 and losses[0]["nats"] == losses[0]["reconstruction"]
    noisy = vae(posterior="diagonal")
    assert not torch.equal(noisy.draw(mel, frames).z, noisy.draw(mel, frames).z)


# Remedies against collapse


@pytest.mark.parametrize("norm", [0.0, 0.5])
def test_a_committed_rate_is_the_kl_of_every_item(norm, vae):
    for rate in (0.05, 0.5, 2.0):
        model, batch = vae(rate=rate, norm=norm, latent=6).train(), clips()
        drawn = model.draw(batch["mel"], batch["frames"])
        torch.testing.assert_close(drawn.kl, torch.full((6,), 6 * rate), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 1e-2], ids=["lively", "nearly dead"])
def test_normalised_means_keep_the_kl_above_a_bound(weight, vae):
    batch = clips(16)
    for norm in (0.3, 1.0):
        model = vae(norm=norm, latent=6).train()
        for parameter in model.law.parameters():
            parameter.data *= weight
        drawn = model.draw(batch["mel"], batch["frames"])
        assert drawn.kl.mean() >= 0.99 * 6 * norm**2 / 2


def drawn_with(each):
    kl = each.sum(1)
    return Drawn(torch.zeros_like(each), kl, torch.zeros_like(kl), kl, each)


def test_free_bits_are_free_and_no_more(vae):
    model = vae(latent=4, free_bits=0.5)
    each = torch.tensor([[0.1, 0.2, 0.3, 3.0], [0.3, 0.0, 0.9, 1.0]], requires_grad=True)  # means 0.2 0.1 0.6 2
    pressure = model.pressure(drawn_with(each))
    assert float(pressure.detach()) == pytest.approx(0.5 + 0.5 + 0.6 + 2)
    pressure.backward()
    assert torch.equal(each.grad != 0, torch.tensor([[False, False, True, True]] * 2))
    for posterior in ("diagonal", "iaf"):
        batch, model = clips(), vae(latent=4, free_bits=5.0, posterior=posterior)
        assert model.pressure(model.draw(batch["mel"], batch["frames"])) >= 4 * 5


def test_a_capacity_pulls_the_kl_to_itself_from_both_sides(vae):
    model = vae(capacity=5.0, beta=3.0)
    for nats, anneal, slope in ((2.0, 1.0, -3.0), (8.0, 1.0, 3.0), (2.0, 0.2, 3.0)):
        each = torch.tensor([[nats, 0.0]], requires_grad=True)
        pressure = model.pressure(drawn_with(each), anneal)
        assert float(pressure.detach()) == pytest.approx(3 * abs(nats - 5 * anneal))
        pressure.backward()
        assert each.grad.tolist() == [[slope, slope]]


def test_annealing_and_beta_say_how_much_the_kl_counts(vae):
    batch = given(vae(), clips())
    numbers = batch["frames"].float().mean() * MEL.bins

    def parts(beta, anneal):
        torch.manual_seed(0)
        return vae(beta=beta).train().loss(batch | {"anneal": torch.tensor(anneal)})

    for beta, anneal in ((1.0, 0.0), (1.0, 1.0), (4.0, 0.25), (4.0, 0.5), (0.0, 1.0)):
        scalars = parts(beta, anneal)
        assert scalars["kl"] > 0.01
        expected = (scalars["reconstruction"] + beta * anneal * scalars["kl"]) / numbers
        torch.testing.assert_close(scalars["loss"], expected)
        torch.testing.assert_close(scalars["nats"], scalars["reconstruction"] + scalars["kl"])  # whatever is minimised


def test_schedules_rise_to_one_and_go_with_the_batches():
    assert [linear(4)(step) for step in (0, 1, 2, 4, 5, 10**6)] == [0, 0.25, 0.5, 1, 1, 1]
    assert [cyclical(8)(step) for step in range(9)] == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0]
    assert [cyclical(4, 1.0)(step) for step in (3, 4, 7)] == [0.75, 0, 0.75]
    batches = annealed(lambda step: {"mel": torch.tensor(step)}, linear(4))
    assert {name: float(value) for name, value in batches(3).items()} == {"mel": 3, "anneal": 0.75}


def test_active_units_are_those_that_vary():
    means = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.05]) + 7
    assert active_units(means).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "remedy",
    [{}, {"free_bits": 0.5}, {"capacity": 3.0}, {"norm": 0.7}, {"rate": 0.5}, {"beta": 0.1}],
    ids=lambda remedy: next(iter(remedy), "none"),
)
def test_a_posterior_collapses_under_a_heavy_kl_unless_a_remedy_is_set(remedy, unchecked, recwarn):
    torch.manual_seed(0)
    model = VAE.preset("tiny", mel=MEL, **{"beta": 20.0, **remedy})
    steps(model, lambda step: given(model, clips(12, seed=step)), count=60)
    health = model.loss(given(model, clips(32, seed=-1)))
    alarms = [str(warning.message) for warning in recwarn if issubclass(warning.category, Collapse)]
    if not remedy:
        assert health["active"] == 0 and health["mi"] < 0.05 and health["kl"] < 0.1
        assert all(part in alarms[0] for part in ("free_bits", "norm", "rate", "capacity", "0 % of 4", "anneal"))
    elif "capacity" in remedy:  # which a posterior may reach that says nothing, if all clips are as far from the prior
        assert health["kl"] == pytest.approx(3, abs=0.7)
    else:
        assert health["active"] >= 0.5 and health["mi"] > 0.2 and not alarms
    kls = torch.stack([health[f"kl/{unit:02d}"] for unit in range(4)])
    torch.testing.assert_close(kls.sum(), health["kl"], rtol=1e-4, atol=1e-4)


def test_the_alarm_names_only_remedies_that_are_not_set(model):
    net = model(free_bits=1.0)
    for weight in net.law.parameters():
        weight.data.zero_()
    with pytest.warns(Collapse) as caught:
        net.loss(given(net, clips()))
    text = str(caught[0].message)
    assert "capacity" in text and "free_bits" not in text and "0 % of 4" in text


# Priors


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_responsibilities_are_those_of_bayes_rule(prior, model):
    net = model(prior=prior, latent=2, components=3)
    z = 2 * torch.randn(7, 2)
    found = net.responsibilities(z)
    assert found.shape == (7, 3) and not found.requires_grad
    torch.testing.assert_close(found.sum(1), torch.ones(7))
    weighed = []
    for component in range(3):  # the prior as if it were the only one
        alone = copy.deepcopy(net)
        if prior == "mixture":
            alone.prior_law.logits.data = torch.full((3,), -1e9).index_fill(0, torch.tensor(component), 0.0)
            weight = net.prior_law.logits.log_softmax(0)[component]
        else:
            alone.prior_law.inputs.data[:] = net.prior_law.inputs.data[component]
            weight = torch.tensor(1 / 3).log()
        weighed.append((weight + log_prior(alone, z, None)).detach())
    torch.testing.assert_close(found, torch.stack(weighed, 1).softmax(1), rtol=1e-3, atol=1e-4)


def test_samples_are_a_function_of_the_seed(model):
    for prior in kinds("prior"):
        net = model(prior=prior, labels=NAMES if prior == "conditional" else ())
        label = labels_of(net, 9)
        torch.manual_seed(5)
        z = net.sample(9, label=label, seed=1)
        after = torch.rand(1)
        torch.manual_seed(5)
        assert torch.equal(torch.rand(1), after)  # what else is random goes on undisturbed
        assert z.shape == (9, 4) and not z.requires_grad and z.isfinite().all()
        assert torch.equal(net.sample(9, label=label, seed=1), z)
        assert not torch.equal(net.sample(9, label=label, seed=2), z)
        assert not torch.equal(net.sample(9, label=label), net.sample(9, label=label))


def test_the_lower_the_temperature_the_more_typical_the_sample(vae):
    for fields in ({}, {"posterior": "hierarchical"}, {"prior": "flow"}, {"prior": "conditional", "labels": NAMES}):
        model = vae(**fields)
        label = torch.zeros(500, dtype=torch.int64) if model.labels else None
        cold, cool, warm = (model.sample(500, label=label, temperature=t, seed=0) for t in (0.0, 0.3, 1.0))
        torch.testing.assert_close(cold, cold[:1].expand(500, -1))
        assert cool.std(0).mean() < warm.std(0).mean()
    assert torch.equal(vae().sample(2, temperature=0.0), torch.zeros(2, 2))


def test_a_conditional_prior_has_a_place_for_each_label(vae):
    model = vae(prior="conditional", labels=NAMES)
    low, high = (model.sample(1, label=model.label([name]), temperature=0.0) for name in NAMES)
    assert not torch.allclose(low, high)


# Decoding


@pytest.mark.parametrize("history", [False, True])
def test_decoding_is_of_any_length_and_each_latent_for_itself(history, vae):
    model, z = vae(history=history, labels=NAMES), torch.randn(3, 2)
    label = labels_of(model, 3)
    for frames in (1, 3, 4, 17):
        mel = model.decode(z, frames, label=label)
        assert mel.shape == (3, MEL.bins, frames) and mel.isfinite().all() and not mel.requires_grad
        assert torch.equal(model.decode(z, frames, label=label), mel)
        for item in range(3):
            own = slice(item, item + 1)
            assert_near(model.decode(z[own], frames, label=label[own]), mel[own])
    assert not torch.allclose(model.decode(z.flip(0), 17, label=label), mel)
    assert not torch.allclose(model.decode(z, 17, label=1 - label), mel)


def test_what_is_decoded_is_the_most_likely_mel(vae):
    for changes in ({}, {"history": True}):
        model, z, frames = vae(**changes), torch.randn(2, 2), torch.full((2,), 10)
        mel = model.decode(z, 10)
        best = model.log_likelihood(mel, frames, z)
        apart = torch.zeros_like(mel)
        apart[..., 8:] = 0.3  # of the last step, which no other sees
        for other in (mel + apart, mel - apart):
            assert (model.log_likelihood(other, frames, z) < best).all()


def test_a_decoder_with_history_looks_back_only(vae):
    model, z, frames = vae(history=True, depth=5), torch.randn(1, 2), torch.tensor([24])
    mel, now = torch.randn(1, MEL.bins, 24), 12
    changed = mel + (torch.arange(24) >= now)
    with torch.no_grad():
        laws = [torch.cat(model.decoder(z, frames, None, given, 24), dim=1) for given in (mel, changed)]
        assert_near(laws[1][..., : now + model.stride], laws[0][..., : now + model.stride])
        assert not torch.isclose(laws[1][..., now + model.stride :], laws[0][..., now + model.stride :]).all()
        decoded = model.decode(z, 24)
        again, _ = model.decoder(z, frames, None, (decoded - model.mel_mean) / model.mel_std, 24)
    assert_near(model.mel_mean + model.mel_std * again, decoded)  # each frame is the mean, given the means before it


def test_contents_are_what_is_said_but_not_by_whom(vae):
    model, batch = vae(content=4), clips(3)
    mel, frames = batch["mel"], batch["frames"]
    contents = model.contents(mel, frames)
    assert contents.shape == (3, 4, 20) and vae().contents(mel) is None
    colour = 3 * torch.randn(3, MEL.bins, 1)
    assert_near(model.contents(mel + colour, frames), contents)
    torch.testing.assert_close(model.contents(3 * mel, frames), contents, rtol=0, atol=0.05)
    for item, count in enumerate(frames.tolist()):
        own = contents[item, :, :count]
        assert_near(own.mean(1), torch.zeros(4))
        torch.testing.assert_close(own.std(1, correction=0), torch.ones(4), rtol=0, atol=0.05)
        assert not contents[item, :, count:].any()
        assert_near(model.contents(mel[item : item + 1, :, :count])[0], own)
    z = torch.randn(3, 2)
    assert not torch.allclose(model.decode(z, 20, content=contents), model.decode(z, 20, content=contents.flip(0)))


# Files and training


@every_model
def test_a_file_gives_the_same_latents(fields, vae, tmp_path):
    model, batch = (
        vae(**fields, norm=0.5 * (fields["posterior"] != "hierarchical" and fields["prior"] != "vamp")),
        clips(),
    )
    label = batch["label"] if model.labels else None
    model.train().loss(given(model, batch))  # running statistics, if it has any
    centres = model.eval().encode(batch["mel"], batch["frames"], label=label)
    model.save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.encode(batch["mel"], batch["frames"], label=label), centres)
    assert torch.equal(loaded.sample(6, label=label, seed=0), model.sample(6, label=label, seed=0))
    assert torch.equal(loaded.decode(centres, 9, label=label), model.decode(centres, 9, label=label))


@pytest.mark.parametrize("fields", PLAIN, ids=named)
def test_a_copy_stands_alone(fields, vae):
    model, label = vae(**fields), torch.tensor([0, 1]) if fields["labels"] else None
    alone = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data += 1
    assert torch.equal(alone.sample(2, label=label, seed=0), vae(**fields).sample(2, label=label, seed=0))


@every_model
def test_every_parameter_gets_a_gradient(fields, vae):
    model, batch = vae(**fields, content=3, history=True).train(), clips(16)
    model.loss(given(model, batch))["loss"].backward()
    blind = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    if fields["posterior"] == "point":
        blind = {name for name in blind if not name.startswith("prior_law")}  # an autoencoder has no use for one
    assert not blind
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("fields", PLAIN, ids=named)
def test_training_lowers_the_loss_and_tells_the_clips_apart(fields, unchecked):
    torch.manual_seed(0)
    model = VAE.preset("tiny", mel=MEL, **fields)
    losses = steps(model, lambda step: given(model, clips(8, seed=step, gap=3.0)), count=40)
    early, late = (sum(scalars["loss"] for scalars in part) / 10 for part in (losses[:10], losses[-10:]))
    assert late < early - 0.3
    batch = clips(200, seed=-1, gap=3.0)
    z = model.encode(batch["mel"], batch["frames"], label=batch["label"] if model.labels else None)
    known, side = torch.cat([z, torch.ones(len(z), 1)], dim=1), 2.0 * batch["label"] - 1
    line = torch.linalg.lstsq(known[:100], side[:100]).solution
    right = ((known @ line)[100:].sign() == side[100:]).float().mean()
    assert right > 0.9 or model.labels  # of which it is told anyway


def test_information_rises_where_clips_can_be_told_apart(lively, unchecked):
    model = lively(InfoMax, mel=MEL, beta=0.1)
    losses = steps(model, lambda step: given(model, clips(8, seed=step)), count=50)
    early, late = (sum(scalars["information"] for scalars in part) / 10 for part in (losses[:10], losses[-10:]))
    assert early + 0.3 < late < math.log(8)


def test_distorted_clips_keep_their_shape_and_are_random():
    mel, frames = clips(40)["mel"], clips(40)["frames"]
    torch.manual_seed(0)
    first, second = distorted(mel, frames), distorted(mel, frames)
    assert first.shape == mel.shape and first.isfinite().all()
    assert not torch.isclose(first, mel).flatten(1).all(1).any()
    assert not torch.isclose(first, second).flatten(1).all(1).any()
    torch.manual_seed(0)
    assert torch.equal(distorted(mel, frames), first)
    blank = (distorted(mel, frames, gap=7.0) == 7).flatten(1).float().mean(1)
    assert (blank > 0).all() and (blank < 1).any()


K, REPEATS = 4, 25
PEAKED, LOOSE = torch.eye(K).repeat(REPEATS, 1), torch.randn(K * REPEATS, K).softmax(1)


def test_agreement_is_full_when_equal_choices_come_in_equal_shares():
    assert agreement(PEAKED, PEAKED) == pytest.approx(math.log(K), abs=1e-4)
    for p, q in ((PEAKED, LOOSE), (LOOSE, LOOSE), (LOOSE, LOOSE.flip(0)), (PEAKED[: K - 1], PEAKED[: K - 1])):
        assert -1e-4 < agreement(p, q) < math.log(K) - 0.1
        assert agreement(p, q) == pytest.approx(float(agreement(q, p)), abs=1e-5)
        order = torch.randperm(len(p))
        assert agreement(p[order], q[order]) == pytest.approx(float(agreement(p, q)), abs=1e-5)


def test_agreement_of_choices_that_have_nothing_to_do_with_each_other_is_none():
    first, second = (PEAKED[:K].repeat(K, 1), PEAKED[:K].repeat_interleave(K, dim=0))  # every pair once
    assert agreement(first, second) == pytest.approx(0, abs=1e-4)
    assert agreement(PEAKED[:1].expand(9, -1), PEAKED[:1].expand(9, -1)) == pytest.approx(0, abs=1e-4)  # one for all
    flat = torch.full((9, K), 1 / K)
    assert agreement(flat, flat) == pytest.approx(0, abs=1e-4)


def test_components_are_learned_to_agree(lively, unchecked):
    model = lively(InfoMax, mel=MEL, prior="mixture", components=2)
    losses = steps(model, lambda step: given(model, clips(16, seed=step, gap=3.0)), count=40)
    early, late = (sum(scalars["clusters"] for scalars in part) / 5 for part in (losses[:5], losses[-5:]))
    assert early + 0.1 < late < math.log(2)


@pytest.mark.parametrize("training", [True, False])
def test_encoding_and_sampling_leave_the_mode_as_it_was_and_do_not_depend_on_it(training, model):
    net, batch = model(norm=0.5).train(), clips()
    net.loss(given(net, batch))
    centres, drawn = net.eval().encode(batch["mel"], batch["frames"]), net.sample(2, seed=0)
    before = {name: value.clone() for name, value in net.train(training).state_dict().items()}
    assert torch.equal(net.encode(batch["mel"], batch["frames"]), centres)
    assert torch.equal(net.sample(2, seed=0), drawn)
    assert all(part.training == training for part in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# Bad input


SPEC = {"mel": MEL}
NOISE = torch.randn(2, MEL.bins, 20, generator=torch.Generator().manual_seed(0)) - 5

SILENCE = MEL(torch.zeros(1, 20 * MEL.hop))


def tiny(**changes):
    return VAE.preset("tiny", **{**SPEC, **changes}).eval()


def numbers(*values):
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda: tiny().encode(SILENCE), "silent"),
        (lambda: tiny().encode(torch.cat([NOISE[:1], SILENCE])), "silent"),
        (lambda: tiny().encode(NOISE[..., :3]), "3 frames"),
        (lambda: tiny().encode(NOISE, numbers(20, 2)), "2"),
        (lambda: tiny().encode(NOISE, numbers(20, 21)), "21"),
        (lambda: tiny().encode(NOISE, numbers(20)), "(1,) lengths"),
        (lambda: tiny().encode(NOISE[0]), "(8, 20)"),
        (lambda: tiny().encode(NOISE.where(NOISE > -5, torch.nan)), "NaN"),
        (lambda: tiny().encode(NOISE[:, :5]), "(2, 5, 20)"),
        (lambda: tiny().encode(NOISE[:0]), "(0, 8, 20)"),
        (lambda: tiny(labels=NAMES).encode(NOISE), "got no labels"),
        (lambda: tiny(labels=NAMES).encode(NOISE, label=numbers(0, 2)), "2]"),
        (lambda: tiny(labels=NAMES).encode(NOISE, label=numbers(0, -1)), "-1"),
        (lambda: tiny(labels=NAMES).encode(NOISE, label=numbers(0)), "expected 2"),
        (lambda: tiny().encode(NOISE, label=numbers(0, 0)), "expected none"),
        (lambda: tiny(labels=NAMES).sample(2), "expected 2 of low, high"),
        (lambda: tiny(labels=NAMES).decode(torch.zeros(2, 4), 8), "got no labels"),
        (lambda: tiny(labels=NAMES).label(["low", "middle"]), "'middle'"),
        (lambda: tiny().label(["low"]), "no labels"),
        (lambda: tiny().decode(torch.zeros(2, 5), 8), "(2, 5)"),
        (lambda: tiny().decode(torch.zeros(4), 8), "(4,)"),
        (lambda: tiny().decode(torch.full((1, 4), torch.nan), 8), "finite"),
        (lambda: tiny().decode(torch.zeros(2, 4), 0), "0 frames"),
        (lambda: tiny(content=3).decode(torch.zeros(2, 4), 8), "content"),
        (lambda: tiny(content=3).decode(torch.zeros(2, 4), 8, content=torch.zeros(2, 3, 9)), "3, 9)"),
        (lambda: tiny(content=3).decode(torch.zeros(2, 4), 8, content=torch.zeros(2, 2, 8)), "2, 8)"),
        (lambda: tiny(content=3).decode(torch.zeros(2, 4), 8, content=torch.zeros(3, 3, 8)), "(3, 3, 8)"),
        (lambda: tiny().decode(torch.zeros(2, 4), 8, content=torch.zeros(2, 3, 8)), "expected None"),
        (lambda: tiny().sample(-1), "got -1 latents"),
        (lambda: tiny(norm=0.5).train().loss({"mel": NOISE[:1], "frames": numbers(20)}), "one clip"),
        (lambda: tiny(norm=0.5, prior="vamp"), "VampPrior"),
        (lambda: linear(0), "got 0 steps"),
        (lambda: cyclical(4, 1.5), "1.5"),
        (lambda: tiny().responsibilities(torch.zeros(2, 4)), "mixture"),
        (lambda: tiny(prior="mixture").responsibilities(torch.zeros(2, 5)), "(2, 5)"),
        (lambda: tiny(posterior="hierarchical", prior="mixture"), "mixture"),
        (lambda: tiny(posterior="hierarchical", latent=5), "groups"),
        (lambda: tiny(posterior="hierarchical", rate=0.1), "rate"),
        (lambda: tiny(posterior="glow", latent=3), "even"),
        (lambda: tiny(prior="flow", latent=3), "even"),
        (lambda: tiny(prior="conditional"), "labels"),
        (lambda: tiny(prior="conditional", labels=("low",)), "two labels"),
        (lambda: tiny(labels=("low", "low")), "once"),
        (lambda: tiny(content=9), "8 bins"),
        (lambda: tiny(posterior="triangular"), "'triangular'"),
        (lambda: tiny(prior="flat"), "'flat'"),
        (lambda: tiny(latent=0), "latent=0"),
        (lambda: tiny(beta=-1.0), "beta=-1.0"),
        (lambda: tiny(capacity=-1.0), "capacity=-1.0"),
        (lambda: tiny(depth=0), "depth=0"),
        (lambda: tiny(mel_std=0.0), "mel_std=0.0"),
        (lambda: InfoMax.preset("tiny", temperature=0.0), "temperature=0.0"),
        (lambda: InfoMax.preset("tiny", neighbours=-1), "neighbours=-1"),
    ],
    ids=["silent", "one silent", "short", "one short", "longer than its mel", "a length missing", "no batch", "NaN",
         "bins", "empty", "no label", "label 2", "label -1", "one label", "label of none", "sampled", "decoded",
         "unknown name", "name of none", "latent", "flat latent", "latent of NaN", "no frames", "no content",
         "long content", "narrow content", "content of more", "content of none", "sampled -1", "norm of one",
         "norm of inputs", "no rise", "long rise", "no clusters", "wide clusters", "hierarchical", "uneven groups",
         "rate", "odd posterior", "odd prior", "no classes", "one class", "class twice", "bands", "posterior", "prior",
         "no latent", "beta", "capacity", "depth", "std", "temperature", "neighbours"],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(act, complaint, unchecked):
    with pytest.raises(WavegenError) as error:
        act()
    text = str(error.value)
    assert complaint in text and "expected" in text and "\n" not in text and len(text) < 300
