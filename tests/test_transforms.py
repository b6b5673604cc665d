"""Laws of every transform: invertible, with the log-determinant of its Jacobian, each item for itself."""

import copy
import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from wavegen.errors import WavegenError
from wavegen.flows import (
    ActNorm,
    Autoregressive,
    Beyond,
    Chain,
    Coupling,
    Inverse,
    Invertible1x1,
    MaskedCoupling,
    Permutation,
    Squeeze,
    checkerboard,
    flip,
    glow_step,
)
from wavegen.latents.posteriors import Diagonal, Grouped
from wavegen.nn import MLP, ConvNet, GatedNet

C = 4
LAYOUTS = {"points": (C,), "sequences": (C, 6), "images": (C, 4, 2)}


def net(space, inputs, outputs, cond):
    sizes = {"hidden": (8, 8), "cond": cond}
    return ConvNet(inputs, outputs, spaces=len(space), **sizes) if space else MLP(inputs, outputs, **sizes)


def deep(space, cond, steps=12):
    return Chain(*(glow_step(C, net(space, C // 2, C, cond)) for _ in range(steps)))


def masked(space, cond, *, scale=True):
    """A checkerboard over all places, then one over channels alone."""
    masks = checkerboard((C, *space)), checkerboard((C, *[1] * len(space)), odd=True)
    nets = (net(space, C, C * (1 + scale), cond) for _ in masks)
    return Chain(*(MaskedCoupling(mask, own, scale=scale) for mask, own in zip(masks, nets, strict=True)))


def multi_scale(space, cond):
    last = glow_step(2, net(space, 1, 2, cond))
    return Chain(deep(space, cond, 2), Beyond(1, Chain(flip(3), Coupling(1, net(space, 1, 4, cond)), Beyond(1, last))))


def gated(space, cond):
    return Coupling(1, GatedNet(1, 6, 8, dilations=(1, 2), cond=cond))


def autoregressive(space, cond):
    return Autoregressive(MLP(C, 2 * C, hidden=(8, 3), cond=cond, causal=True))


# Every transform of the package, as a function of the positions of an item and the numbers of its condition.
TABLE = {
    "ActNorm": lambda space, cond: ActNorm(C),
    "1x1": lambda space, cond: Invertible1x1(C),
    "1x1 of a matrix": lambda space, cond: Invertible1x1(C, matrix=torch.randn(C, C)),
    "permutation": lambda space, cond: Permutation([2, 0, 3, 1]),
    "flip": lambda space, cond: flip(C),
    "squeeze": lambda space, cond: Squeeze(2),
    "affine coupling": lambda space, cond: Coupling(2, net(space, 2, 4, cond)),
    "unbounded coupling": lambda space, cond: Coupling(3, net(space, 3, 2, cond), bound=None),
    "additive coupling": lambda space, cond: Coupling(1, net(space, 1, 3, cond), scale=False),
    "masked couplings": masked,
    "additive masked couplings": lambda space, cond: masked(space, cond, scale=False),
    "inverse": lambda space, cond: Inverse(masked(space, cond)),
    "multi-scale": multi_scale,
    "squeezed and back": lambda space, cond: Chain(Squeeze(2), flip(C * 2 ** len(space)), Inverse(Squeeze(2))),
    "deep": deep,
    "gated coupling": gated,
    "autoregressive": autoregressive,
    "inverse autoregressive": lambda space, cond: Inverse(autoregressive(space, cond)),
    "diagonal": lambda space, cond: Diagonal(cond, C),
    "groups": lambda space, cond: Grouped(C, 2, hidden=(8,), cond=cond),
}
BLIND = ("ActNorm", "1x1", "1x1 of a matrix", "permutation", "flip", "squeeze", "squeezed and back")  # to conditions
ONLY = {
    "gated coupling": "sequences",
    **dict.fromkeys(("autoregressive", "inverse autoregressive", "diagonal", "groups"), "points"),
}


class Case:
    """One transform with lively weights, and items for it."""

    def __init__(self, name, layout, cond):
        self.name, self.shape, self.aligned = name, LAYOUTS[layout], name == "gated coupling"
        self.build = lambda: TABLE[name](self.shape[1:], cond)
        self.cond = cond

    def transform(self, dtype=torch.float64):
        torch.manual_seed(0)
        transform = self.build().to(dtype).eval()
        for weight in transform.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        return transform

    def items(self, count=3, dtype=torch.float64):
        torch.manual_seed(1)
        cond = torch.randn(count, self.cond, *(self.shape[1:] if self.aligned else ()), dtype=dtype)
        return torch.randn(count, *self.shape, dtype=dtype), cond if self.cond else None


CASES = {
    f"{name}, {layout}{', conditioned' if cond else ''}": (name, layout, cond)
    for name in TABLE
    for layout in LAYOUTS
    for cond in (0, 3)
    if ONLY.get(name, layout) == layout and not (cond and name in BLIND and layout != "points")
    if cond or name != "diagonal"  # which is made of its condition alone
}


@functools.cache
def kinds_in_the_table():
    return {type(part) for arguments in CASES.values() for part in Case(*arguments).build().modules()}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return Case(*request.param)


def test_every_transform_is_in_the_table(transform_class):
    assert transform_class in kinds_in_the_table()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["double", "single"])
def test_the_inverse_undoes_it_both_ways_and_the_logdets_cancel(case, dtype, near):
    transform = case.transform(dtype)
    x, cond = case.items(dtype=dtype)
    y, logdet = transform(x, cond)
    back, minus = transform.inverse(y, cond)
    assert logdet.shape == (len(x),) and y.dtype == logdet.dtype == dtype
    torch.testing.assert_close(back, x, rtol=0, atol=near)
    torch.testing.assert_close(minus, -logdet, rtol=0, atol=near)
    if y.shape == x.shape and dtype == torch.float64:  # then x may as well be noise, where digits are plenty
        there, _ = transform.inverse(x, cond)
        torch.testing.assert_close(transform(there, cond)[0], x, rtol=0, atol=near)


def test_the_logdet_is_that_of_the_jacobian(case):
    transform = case.transform()
    x, cond = case.items()
    _, logdet = transform(x, cond)
    for item in range(len(x)):
        own = None if cond is None else cond[item : item + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, own=own: transform(x[None], own)[0].flatten(), x[item])
        expected = torch.linalg.slogdet(jacobian.flatten(1))[1]
        torch.testing.assert_close(logdet[item], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_every_parameter_gets_a_gradient(case, way):
    transform = case.transform()
    x, cond = case.items()
    if way == "inverse":
        x = transform(x, cond)[0].detach()
    y, logdet = getattr(transform, way)(x.requires_grad_(), cond)
    (y.square().sum() - logdet.sum()).backward()
    for name, weight in [("x", x), *transform.named_parameters()]:
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_no_item_depends_on_another_and_all_conditions_count(case, way):
    transform = case.transform()
    x, cond = case.items()
    if way == "inverse":
        x = transform(x, cond)[0].detach()
    before, logdet = getattr(transform, way)(x, cond)
    changed = x.clone()
    changed[1] += 1
    after, logdet_after = getattr(transform, way)(changed, cond)
    kept = [0, 2]
    torch.testing.assert_close(after[kept], before[kept], rtol=0, atol=1e-12)
    torch.testing.assert_close(logdet_after[kept], logdet[kept], rtol=0, atol=1e-12)
    assert not torch.allclose(after[1], before[1])
    for number in range(0 if cond is None else cond.shape[1]):
        other = cond.clone()
        other[:, number] += 1
        assert torch.equal(getattr(transform, way)(x, other)[0], before) == (case.name in BLIND)


def test_saved_after_its_first_batch_it_is_the_same_anywhere(case):
    transform = case.transform().train()
    x, cond = case.items(8)
    first, _ = transform(x, cond)
    again = case.build().double().train()
    again.load_state_dict(copy.deepcopy(transform.state_dict()))
    for other in (2 * x + 1, x):
        expected, logdet = transform(other, cond)
        found, logdet_found = again(other, cond)
        assert torch.equal(found, expected) and torch.equal(logdet_found, logdet)
    assert torch.equal(found, first)


@pytest.mark.parametrize("shape", LAYOUTS.values(), ids=LAYOUTS)
def test_actnorm_gives_every_channel_of_its_first_batch_zero_mean_and_unit_variance(shape):
    norm, x = ActNorm(C).train(), 5 + 3 * torch.randn(40, *shape)
    y = norm(x)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.zeros(C), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(C), rtol=0, atol=1e-5)
    before = copy.deepcopy(norm.state_dict())
    norm(x + 1)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_actnorm_stands_a_channel_that_never_changes_and_says_nothing_when_evaluated():
    norm = ActNorm(2).eval()
    x = torch.randn(9, 2) * torch.tensor([0.0, 1.0]) + 7
    assert torch.equal(norm(x)[0], x)
    y, logdet = norm.train()(x)
    assert y.isfinite().all() and logdet.isfinite().all()


ONE_OF_TWO = """
import sys, torch
from torch import distributed
from wavegen.flows import ActNorm
early, late = ActNorm(2), ActNorm(2)
early(torch.randn(4, 2))
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
early(torch.randn(4, 2))
try:
    late(torch.randn(4, 2))
except ValueError as error:
    print(error)
"""


def test_of_several_processes_none_sets_actnorm_by_its_own_batch(tmp_path):
    commands = [[sys.executable, "-c", ONE_OF_TWO, tmp_path / "meeting", str(rank)] for rank in range(2)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        told, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and "one of several processes" in told and told.count("\n") == 1


def test_invertible_1x1_starts_as_a_rotation_or_as_its_matrix():
    rotation = Invertible1x1(6).matrix
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6), rtol=0, atol=1e-5)
    matrix = torch.randn(6, 6)
    x = torch.randn(2, 6, 5)
    y, logdet = Invertible1x1(6, matrix=matrix)(x)
    torch.testing.assert_close(y, torch.einsum("dc,bct->bdt", matrix, x), rtol=0, atol=1e-5)
    torch.testing.assert_close(logdet, 5 * torch.linalg.slogdet(matrix)[1].expand(2), rtol=0, atol=1e-5)


def test_half_precision_of_the_networks_does_not_touch_the_signal():
    chain = Case("deep", "sequences", 3).transform(torch.float32)
    x, cond = Case("deep", "sequences", 3).items(dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, logdet = chain(x, cond)
        back, minus = chain.inverse(y, cond)
    assert y.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=0.02)  # the networks see rounding errors, and round them up
    mixing = Invertible1x1(C)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mixing.inverse(mixing(x)[0])[0], x, rtol=0, atol=1e-5)
    torch.testing.assert_close(minus, -logdet, rtol=0, atol=0.1)


def test_squeeze_puts_neighbours_into_channels():
    y, _ = Squeeze(3)(torch.arange(12.0).view(1, 2, 6))
    assert y.tolist() == [[[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]]
    image = torch.randn(2, 3, 4, 6)
    assert torch.equal(Squeeze(2)(image)[0], nn.functional.pixel_unshuffle(image, 2))


def test_a_checkerboard_and_its_opposite_cover_all_once():
    even, odd = checkerboard((2, 3, 4)), checkerboard((2, 3, 4), odd=True)
    assert torch.equal(even, ~odd)
    assert all(torch.equal(even.select(axis, 0), ~even.select(axis, 1)) for axis in range(3))


def test_what_a_coupling_keeps_it_keeps_to_the_bit():
    x = torch.randn(2, 4, 3)
    transform = Coupling(2, ConvNet(2, 4, hidden=(8,), spaces=1))
    nn.init.normal_(list(transform.parameters())[-2])
    assert torch.equal(transform(x)[0][:, :2], x[:, :2])
    assert not torch.isclose(transform(x)[0][:, 2:], x[:, 2:]).any()


@pytest.mark.parametrize("inputs", [1e9, -1e9, torch.inf], ids=str)
def test_log_scales_stay_within_their_bound(inputs):
    class Loud(nn.Module):
        def forward(self, x, cond=None):
            return torch.full((len(x), 4), inputs)

    logdet = Coupling(2, Loud(), bound=2.0)(torch.randn(3, 4))[1]
    assert logdet.abs().max() <= 4


def test_an_autoregressive_map_is_triangular():
    transform = Case("autoregressive", "points", 0).transform()
    jacobian = torch.autograd.functional.jacobian(lambda x: transform(x)[0][0], torch.randn(1, C).double())[:, 0]
    assert torch.equal(jacobian, jacobian.tril()) and jacobian.tril(-1).count_nonzero() == C * (C - 1) // 2


SINGULAR = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
SINGULAR[4] = SINGULAR[0] - 2 * SINGULAR[1]


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda: Invertible1x1(5, matrix=SINGULAR), "singular"),
        (lambda: Invertible1x1(5, matrix=torch.zeros(5, 5)), "singular"),
        (lambda: Invertible1x1(5, matrix=torch.eye(4)), "5 x 5"),
        (lambda: Invertible1x1(2, matrix=torch.tensor([[1.0, torch.nan], [0.0, 1.0]])), "finite"),
        (lambda: Permutation([0, 2]), "[0, 2]"),
        (lambda: glow_step(3, nn.Identity()), "3 channels"),
        (lambda: Squeeze(4)(torch.zeros(1, 2, 6)), "multiples of 4"),
        (lambda: Squeeze(2).inverse(torch.zeros(1, 6, 2, 2)), "6 channels"),
        (lambda: MaskedCoupling(checkerboard((3,)), MLP(4, 8, hidden=(4,)))(torch.zeros(1, 4)), "(3,)"),
        (lambda: MaskedCoupling(checkerboard((4,)), MLP(4, 8, hidden=(4,)))(torch.zeros(1, 4, 4)), "(4,)"),
        (lambda: Coupling(2, MLP(2, 2, hidden=(4,)))(torch.zeros(1, 4)), "expected 4"),
        (lambda: Coupling(2, MLP(2, 4, hidden=(4,)), scale=False)(torch.zeros(1, 4)), "expected 2"),
        (lambda: Autoregressive(MLP(4, 4, hidden=(4,), causal=True))(torch.zeros(1, 4)), "expected 8"),
    ],
    ids=["singular", "zero", "not square", "not finite", "no order", "odd", "not divisible", "not folded", "mask",
         "mask of points", "no log-scale", "too much", "half a network"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(act, complaint, unchecked):
    with pytest.raises(WavegenError) as error:
        act()
    text = str(error.value)
    assert complaint in text and "expected" in text and "\n" not in text and len(text) < 300
