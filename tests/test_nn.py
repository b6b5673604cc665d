"""Laws of the blocks: they compute their plain definition, derivatives too, and see exactly as far as stated."""

import math

import pytest
import torch
from torch.nn import functional

from wavegen.errors import WavegenError
from wavegen.nn import MLP, ConvNet, GatedStack
from wavegen.vocoders.conditioning import Upsample, factors


def plain_stack(stack: GatedStack, h, cond=None, style=None):
    """The definition in the class docstring by Conv1d, channels second, for (N, B, C)."""
    h, skips, layers = h.permute(1, 2, 0), 0, len(stack.dilations)
    half = stack.gate.shape[-1] // 2
    for layer, dilation in enumerate(stack.dilations):
        span = (stack.kernel - 1) * dilation
        padded = functional.pad(h, (span, 0) if stack.causal else (span // 2, span // 2))
        z = functional.conv1d(padded, stack.gate[layer].permute(2, 1, 0), dilation=dilation)
        columns = slice(layer * 2 * half, (layer + 1) * 2 * half)
        z = z + stack.gate_bias[columns, None]
        if cond is not None:
            z = z + functional.linear(cond, stack.cond.weight[columns]).permute(1, 2, 0)
        if style is not None:
            z = z + functional.linear(style, stack.style.weight[columns]).unsqueeze(-1)
        y = torch.tanh(z[:, :half]) * torch.sigmoid(z[:, half:])
        skips = skips + torch.einsum("bht,sh->bst", y, stack.skip.weight[:, layer * half : (layer + 1) * half])
        if layer < layers - 1:
            out = torch.einsum("bht,hr->brt", y, stack.residual[layer]) + stack.residual_bias[layer][:, None]
            h = (h + out) * math.sqrt(0.5)
    return (skips + stack.skip.bias[:, None]).permute(2, 0, 1)


def stack_and_inputs(*, steps=9, batch=2, cond=0, style=0, **changes):
    torch.manual_seed(0)
    sizes = {"channels": 3, "gates": 4, "skip": 5, "dilations": (1, 2, 4), **changes}
    stack = GatedStack(**sizes, cond=cond, style=style).double()
    for weight in stack.parameters():
        weight.data = torch.randn_like(weight) * 0.5
    inputs = [torch.randn(steps, batch, 3), torch.randn(steps, batch, cond or 1), torch.randn(batch, style or 1)]
    h, c, s = (value.double().requires_grad_() for value in inputs)
    return stack, h, c if cond else None, s if style else None


SHAPES = {
    "causal": {"kernel": 2},
    "kernel 3": {"kernel": 3, "cond": 2},
    "styled": {"kernel": 2, "style": 3},
    "conditioned and styled": {"kernel": 2, "cond": 2, "style": 3},
    "centred": {"kernel": 3, "causal": False},
    "centred and conditioned": {"kernel": 5, "causal": False, "cond": 2, "style": 1},
    "one layer": {"dilations": (1,)},
    "one layer, conditioned": {"dilations": (2,), "cond": 2},
    "one step": {"steps": 1, "batch": 1},
    "one step of one layer": {"steps": 1, "batch": 1, "dilations": (1,)},
    "shorter than its reach": {"steps": 3, "kernel": 3, "dilations": (1, 2, 4, 8)},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_stack_is_its_definition_and_so_are_its_derivatives(shape):
    stack, h, cond, style = stack_and_inputs(**shape)
    given = [value for value in (h, cond, style) if value is not None] + list(stack.parameters())
    before = [value.detach().clone() for value in given]
    fast, plain = stack(h, cond, style), plain_stack(stack, h, cond, style)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    pull = torch.randn_like(fast)
    ours = torch.autograd.grad(fast, given, pull, allow_unused=True)
    theirs = torch.autograd.grad(plain, given, pull, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=0, atol=1e-11)
    assert all(torch.equal(value, old) for value, old in zip(given, before, strict=True))


@pytest.mark.parametrize("shape", [{"kernel": 3, "cond": 2}, {"kernel": 3, "causal": False, "style": 1}])
def test_the_derivative_of_the_stack_is_that_of_small_differences(shape):
    stack, h, cond, style = stack_and_inputs(steps=4, batch=1, dilations=(1, 2), **shape)
    names, weights = zip(*stack.named_parameters(), strict=True)

    def run(h, *weights):
        return torch.func.functional_call(stack, dict(zip(names, weights, strict=True)), (h, cond, style))

    assert torch.autograd.gradcheck(run, (h, *weights))


@pytest.mark.parametrize(("kernel", "causal"), [(2, True), (3, True), (3, False), (5, False)])
@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (2, 2, 1)])
def test_the_stack_reaches_as_far_as_it_says(kernel, causal, dilations):
    stack, h, _, _ = stack_and_inputs(steps=61, kernel=kernel, causal=causal, dilations=dilations)
    (slope,) = torch.autograd.grad(stack(h)[30, 0].sum(), h)
    touched = slope.abs().sum(-1).nonzero()
    assert (touched[:, 1] == 0).all(), "an item of a batch depends on another"
    assert touched[0, 0] == 30 - stack.reach
    assert touched[-1, 0] == (30 if causal else 30 + stack.reach)


def test_a_longer_input_does_not_change_earlier_outputs():
    stack, h, cond, style = stack_and_inputs(steps=40, cond=2, style=3)
    torch.testing.assert_close(stack(h, cond, style)[:25], stack(h[:25], cond[:25], style), rtol=0, atol=1e-12)


def test_under_autocast_the_stack_computes_in_bfloat16_what_it_computes_in_float32():
    stack, h, cond, style = stack_and_inputs(steps=40, cond=2, style=3)
    stack, h, cond, style = stack.float(), h.float(), cond.float(), style.float()
    exact = stack(h, cond, style)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = stack(h, cond, style)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_an_even_kernel_cannot_be_centred():
    with pytest.raises(WavegenError, match="kernel of 2 taps"):
        GatedStack(3, 4, 5, dilations=(1, 2), kernel=2, causal=False)


@pytest.mark.parametrize("number", [*range(1, 130), 200, 256, 275, 300, 512, 997])
def test_factors_multiply_to_the_number(number):
    found = factors(number)
    assert math.prod(found) == number
    for factor in found:
        assert 1 < factor <= 4 or all(factor % divisor for divisor in range(2, factor))


def lively_upsample(rates):
    torch.manual_seed(0)
    upsample = Upsample(rates).double()
    for smooth in upsample.parameters():
        smooth.data += 0.1 * torch.randn_like(smooth)
    return upsample


@pytest.mark.parametrize("rates", [(), (1,), (4,), (4, 4, 2), (3, 5), (2, 2, 2, 2, 2), (4, 3, 5, 5)])
def test_upsampling_is_repetition_and_convolution(rates):
    upsample = lively_upsample(rates)
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    expected = x.flatten(1).T.unsqueeze(1)  # (BC, 1, F)
    for rate, smooth in zip(rates, upsample.filters, strict=True):
        repeated = expected.repeat_interleave(rate, dim=-1)
        expected = functional.conv1d(repeated, smooth.view(1, 1, -1), padding=rate)
    made = upsample(x)
    assert made.shape == (7 * math.prod(rates), 2, 3)
    torch.testing.assert_close(made, expected.squeeze(1).T.unflatten(1, (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rates", [(), (4,), (4, 4, 2), (3, 5), (2, 2, 2, 2, 2), (4, 4, 4, 4)])
def test_upsampling_reaches_as_far_as_it_says(rates):
    upsample, per_frame = lively_upsample(rates), math.prod(rates)
    x = torch.randn(9, 1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(upsample(x)[4 * per_frame : 5 * per_frame].square().sum(), x)
    assert slope.flatten().nonzero().flatten().tolist() == list(range(4 - upsample.reach, 5 + upsample.reach))


def test_upsampling_starts_as_a_moving_average():
    constant = Upsample((4, 2))(torch.ones(9, 1, 1))
    torch.testing.assert_close(constant[16:-16], torch.ones_like(constant[16:-16]))


@pytest.mark.parametrize("cond", [0, 2])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, (3,)), (2, (5, 4)), (6, (16, 8)), (9, (3,))])
def test_an_output_of_a_causal_mlp_sees_the_inputs_before_it_and_all_conditions(inputs, hidden, cond):
    torch.manual_seed(0)
    net = MLP(inputs, 2 * inputs, hidden=hidden, cond=cond, causal=True).double()
    for weight in net.parameters():
        torch.nn.init.normal_(weight)
    x = torch.randn(1, inputs + cond).double()
    seen = torch.autograd.functional.jacobian(lambda x: net(x[:, :inputs], x[:, inputs:])[0], x)[:, 0] != 0
    before = torch.ones(inputs, inputs).tril(-1).bool().repeat(2, 1)
    assert not (seen[:, :inputs] & ~before).any() and seen[:, inputs:].all()
    if min(hidden) >= inputs:
        assert torch.equal(seen[:, :inputs], before)


@pytest.mark.parametrize("spaces", [1, 2])
def test_convolutions_reach_two_places_and_are_conditioned_everywhere(spaces):
    torch.manual_seed(0)
    net = ConvNet(2, 3, hidden=(8, 8), spaces=spaces, cond=1)
    assert not net(torch.randn(1, 2, *[9] * spaces), torch.ones(1, 1)).any()  # zeros at first
    torch.nn.init.normal_(net[-1].weight)
    x, cond = torch.zeros(1, 2, *[9] * spaces), torch.ones(1, 1)
    touched = x.clone()
    touched[0, 0].view(-1)[0] = 1  # a corner
    changed = (net(touched, cond) != net(x, cond)).any(dim=1)[0]
    assert torch.equal(changed.nonzero().max(dim=0).values, torch.tensor([2] * spaces))
    assert (net(x, 2 * cond) != net(x, cond)).all()
