"""Laws of every flow: a density that integrates to one, samples that follow it, and training that stays finite."""

import math

import pytest
import torch
import zuko
from torch.distributions import AffineTransform, ComposeTransform

from wavegen.errors import WavegenError
from wavegen.flows import IAF, MAF, Autoregressive, Chain, Coupling, Glow, MaskedCoupling, checkerboard, glow_step
from wavegen.flows.base import gaussian
from wavegen.nn import MLP

FLOWS = pytest.mark.parametrize("cond", [0, 2], ids=["", "conditioned"])
REACH, SIDE = 12.0, 400  # a square of the plane, and cells along it


def conditions(flow, n):
    return torch.tensor([[0.5, -1.0]]).expand(n, -1) if flow.cond else None


def grid():
    """Centres of the cells, (SIDE * SIDE, 2), and the area of one."""
    line = (torch.arange(SIDE) + 0.5) * (2 * REACH / SIDE) - REACH
    return torch.cartesian_prod(line, line), (2 * REACH / SIDE) ** 2


@FLOWS
def test_the_density_integrates_to_one_and_samples_follow_it(flow_class, lively, cond):
    flow = lively(flow_class, cond=cond)
    points, area = grid()
    with torch.no_grad():
        mass = flow.log_prob(points, conditions(flow, len(points))).exp() * area
    assert mass.sum() == pytest.approx(1, abs=1e-2)
    drawn = flow.sample(20_000, conditions(flow, 20_000), seed=0)
    for slope in (
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([1.0, -1.0]),
    ):
        for least in (-1.0, 0.0, 1.0):
            share = (drawn @ slope > least).float().mean()
            assert share == pytest.approx(float(mass[points @ slope > least].sum()), abs=0.02)


@FLOWS
def test_samples_have_a_finite_density_and_are_a_function_of_the_seed(flow_class, lively, cond):
    flow = lively(flow_class, cond=cond)
    given = conditions(flow, 50)
    points = flow.sample(50, given, seed=1)
    assert points.shape == (50, 2) and not points.requires_grad
    assert flow.log_prob(points, given).isfinite().all()
    assert torch.equal(flow.sample(50, given, seed=1), points)
    assert not torch.equal(flow.sample(50, given, seed=2), points)
    assert not torch.equal(flow.sample(50, given), flow.sample(50, given))


def test_at_temperature_zero_all_samples_are_one(flow_class, lively):
    flow = lively(flow_class)
    points = flow.sample(5, temperature=0.0)
    torch.testing.assert_close(points, points[:1].expand(5, -1), rtol=0, atol=1e-6)
    near, far = (flow.sample(500, temperature=t, seed=0).std(0).mean() for t in (0.3, 1.0))
    assert near < far


def test_samples_of_every_preset_have_a_finite_density(flow_class):
    for preset in flow_class.presets:
        flow = flow_class.preset(preset).eval()
        items = flow.sample(2, seed=0)
        assert items.shape == (2, *flow.shape)
        assert flow.log_prob(items).isfinite().all()


@pytest.mark.parametrize("shape", [(2, 8), (1, 8, 4)], ids=["sequences", "images"])
def test_items_with_positions_leave_in_several_scales(flow_class, shape, lively):
    if issubclass(flow_class, MAF):
        pytest.skip(f"{flow_class.__name__} is of points")
    flow = lively(flow_class, shape=shape, levels=2, cond=3, steps=3).double()
    x, cond = torch.randn(2, *shape).double(), torch.randn(2, 3).double()
    z, logdet = flow.transform(x, cond)
    back, minus = flow.transform.inverse(z, cond)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(minus, -logdet, rtol=0, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.transform(x[None], cond[:1])[0].flatten(), x[0])
    expected = torch.linalg.slogdet(jacobian.flatten(1))[1]
    torch.testing.assert_close(logdet[0], expected, rtol=0, atol=1e-8)


def banana(step, items=128):
    """Points about a parabola whose steepness is their condition."""
    noise = torch.randn(items, 3, generator=torch.Generator().manual_seed(step))
    steep = 1 + 0.5 * noise[:, 2:].tanh()
    return {"x": torch.stack([noise[:, 0], steep[:, 0] * noise[:, 0] ** 2 + 0.2 * noise[:, 1]], dim=1), "cond": steep}


def test_it_learns_what_a_gaussian_cannot(flow_class, unchecked):
    torch.manual_seed(0)
    flow = flow_class.preset("tiny", cond=1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for step in range(60):
        optimizer.zero_grad()
        flow.loss(banana(step))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
    test = banana(-1, 2000)
    gaussian = torch.distributions.MultivariateNormal(test["x"].mean(0), test["x"].T.cov())
    nats = flow.eval().loss(test)["nats"]
    assert nats < -gaussian.log_prob(test["x"]).mean() - 0.3


def hostile(step, generator):
    """Points that are far out, all the same, nearly so, of any scale, or alone."""
    scale = 10 ** (8 * torch.rand((), generator=generator) - 4)
    points = scale * torch.randn(8, 2, generator=generator)
    kinds = (points, points[:1].expand(8, -1), points[:1] + 1e-7 * points, 0 * points, points[:1], points + 1e4)
    return kinds[step % len(kinds)]


def test_ten_thousand_steps_on_hostile_batches_stay_finite(unchecked):
    torch.manual_seed(0)
    autoregressive = Autoregressive(MLP(2, 4, hidden=(8,), causal=True))
    masked = MaskedCoupling(checkerboard((2,)), MLP(2, 4, hidden=(8,)))
    chain = Chain(glow_step(2, MLP(1, 2, hidden=(8,))), masked, autoregressive)
    weights, generator = list(chain.parameters()), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(weights, lr=0.03, fused=True)
    for step in range(10_000):
        optimizer.zero_grad()
        z, logdet = chain(hostile(step, generator))
        loss = -(gaussian(z) + logdet).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        assert math.isfinite(loss.detach()) and math.isfinite(norm), step
        optimizer.step()
    x, _ = chain.inverse(torch.randn(100, 2))
    assert x.isfinite().all()


# Another library as a witness: zuko's masks, passes and log-densities with our weights, the affine maps being torch's.


def theirs_with_weights_of(net, size, cond, bound):
    """Zuko's autoregressive transform whose units, in another order, have the connections and weights of our net."""

    def affine(mean, log_std):
        std = (bound * torch.tanh(log_std / bound)).exp()
        return ComposeTransform([AffineTransform(-mean, 1), AffineTransform(0, 1 / std)])

    theirs = zuko.flows.MaskedAutoregressiveTransform(
        size, cond, univariate=affine, shapes=[(), ()], hidden_features=(20, 20), activation=torch.nn.SiLU
    ).double()
    before = torch.arange(size + cond), torch.arange(size + cond)
    for layer, (mine, other) in enumerate(zip(list(net)[::2], list(theirs.hyper)[::2], strict=True)):
        after = tuple(mask.sum(1).argsort(stable=True) for mask in (mine.mask, other.mask))
        if layer == 2:  # means, then log-scales; in zuko both of each coordinate
            after = torch.arange(2 * size), torch.arange(2 * size).view(size, 2).T.flatten()
        assert torch.equal(other.mask[after[1]][:, before[1]], mine.mask[after[0]][:, before[0]])
        other.weight.data[after[1].unsqueeze(1), before[1]] = mine.weight.data[after[0]][:, before[0]]
        other.bias.data[after[1]] = mine.bias.data[after[0]]
        before = after
    return theirs


@pytest.mark.parametrize("kind", [MAF, IAF])
@FLOWS
def test_zuko_gives_autoregressive_flows_the_same_density(kind, cond, lively):
    size = 5
    x, given = torch.randn(7, size).double(), torch.randn(7, 2).double() if cond else None
    flow = lively(kind, shape=(size,), cond=cond, steps=3, hidden=(20, 20)).double()
    steps = []
    for norm, step, _ in (part.steps for part in flow.transform.steps):
        own = step.step if kind is IAF else step
        with torch.no_grad():
            there = theirs_with_weights_of(own.net, size, cond, flow.bound)(given)
        turn = zuko.transforms.PermutationTransform(torch.arange(size - 1, -1, -1))
        affine = zuko.transforms.DependentTransform(AffineTransform(norm.shift, norm.log_scale.exp()), 1)
        steps += [affine, there.inv if kind is IAF else there, turn]
    base = zuko.distributions.DiagNormal(torch.zeros(size).double(), torch.ones(size).double())
    expected = zuko.distributions.NormalizingFlow(zuko.transforms.ComposedTransform(*steps), base).log_prob(x)
    torch.testing.assert_close(flow.log_prob(x, given), expected, rtol=0, atol=1e-9)


def test_zuko_couples_alike():
    torch.manual_seed(0)
    net, x = MLP(2, 6, hidden=(9,)).double(), torch.randn(7, 5).double()
    torch.nn.init.normal_(net[-1].weight)

    def rest(seen):
        shift, log_scale = net(seen).chunk(2, dim=1)
        return zuko.transforms.DependentTransform(AffineTransform(shift, log_scale.exp()), 1)

    theirs = zuko.transforms.CouplingTransform(rest, torch.arange(5) < 2)
    expected, logdet = theirs.call_and_ladj(x)
    y, ours = Coupling(2, net, bound=None)(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, logdet, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda: MAF().log_prob(torch.zeros(3, 4)), "(4,)"),
        (lambda: MAF().log_prob(torch.zeros(3, 2), torch.zeros(3, 1)), "(3, 1)"),
        (lambda: MAF(cond=2).log_prob(torch.zeros(3, 2)), "(3, 2)"),
        (lambda: MAF(cond=2).log_prob(torch.zeros(3, 2), torch.zeros(1, 2)), "(1, 2)"),
        (lambda: MAF(cond=2).sample(3, torch.zeros(2, 2)), "(2, 2)"),
        (lambda: MAF(shape=(1, 4, 4)), "(1, 4, 4)"),
        (lambda: Glow(shape=(3,)), "3 channels"),
        (lambda: Glow(shape=(1, 6, 6), levels=2), "levels"),
        (lambda: Glow(shape=(2,), levels=1), "levels"),
        (lambda: MAF(steps=0), "positive"),
        (lambda: MAF(hidden=()), "positive"),
    ],
    ids=["items", "condition", "no condition", "one condition", "sampled", "image", "odd", "levels", "points", "steps",
         "no layer"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(act, complaint, unchecked):
    with pytest.raises(WavegenError) as error:
        act()
    text = str(error.value)
    assert complaint in text and "expected" in text and "\n" not in text and len(text) < 300
