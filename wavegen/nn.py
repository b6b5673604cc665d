"""Blocks with more than one user. Sequences are (N, B, C): steps, batch, channels.

With time first, delaying a batch of sequences is a slice of rows, so a dilated convolution is one matrix product for
each tap and nothing is copied; on a CPU in bfloat16 that is several times faster than `Conv1d`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

__all__ = ["GatedStack", "Upsample", "factors"]


def delayed(rows: int, delay: int) -> tuple[slice, slice]:
    """Where y[n] and x[n - delay] both exist, as slices of y and of x; a negative delay looks ahead."""
    if delay >= 0:
        return slice(min(delay, rows), rows), slice(0, max(rows - delay, 0))
    return slice(0, max(rows + delay, 0)), slice(min(-delay, rows), rows)


class GatedLayers(torch.autograd.Function):
    """The gated layers of a stack with the derivative written out: rows (n, b) times channels.

    For layer l with taps W_k delayed by d_k rows, conditioning c and residual weights R (the last layer has none):

        [a, b] = sum_k h[. - d_k] W_k + c;    y = tanh(a) sigmoid(b);    h <- (h + y R + r) sqrt(1/2)

    Returns all y side by side, (N * B, L * H). The sigmoid is written with tanh, because torch's sigmoid-like kernels
    are many times slower than it in some processes.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        delays: list[list[int]],
        h: Float[Tensor, "M R"],
        added: Float[Tensor, "M LG"] | Float[Tensor, "1 LG"],
        gate: Float[Tensor, "L K R G"],
        residual: Float[Tensor, "l H R"],
        residual_bias: Float[Tensor, "l R"],
    ) -> Float[Tensor, "M LH"]:
        layers, _, _, double = gate.shape
        half = double // 2
        outputs = h.new_empty(len(h), layers * half)
        inputs, tangents, sigmoids = [], [], []
        for layer in range(layers):
            z = added[:, layer * double : (layer + 1) * double].expand(len(h), -1).contiguous()
            for tap, delay in enumerate(delays[layer]):
                now, then = delayed(len(h), delay)
                z[now].addmm_(h[then], gate[layer, tap])
            tangent, sigmoid = torch.tanh(z[:, :half]), torch.tanh(z[:, half:] * 0.5).mul_(0.5).add_(0.5)
            y = torch.mul(tangent, sigmoid, out=outputs[:, layer * half : (layer + 1) * half])
            inputs.append(h)
            tangents.append(tangent)
            sigmoids.append(sigmoid)
            if layer < len(residual):
                h = torch.addmm(residual_bias[layer], y, residual[layer]).add_(h).mul_(math.sqrt(0.5))
        ctx.delays, ctx.common = delays, len(added) == 1  # type: ignore[attr-defined]
        ctx.save_for_backward(outputs, gate, residual, *inputs, *tangents, *sigmoids)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        outputs, gate, residual, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        layers, _, _, double = gate.shape
        half = double // 2
        inputs, tangents, sigmoids = (saved[i * layers : (i + 1) * layers] for i in range(3))
        d_gate, d_residual = torch.empty_like(gate), torch.empty_like(residual)
        d_bias = residual.new_empty(len(residual), residual.shape[-1])
        d_added = outputs.new_empty(len(outputs), layers * double)
        d_h = torch.zeros_like(inputs[0])
        for layer in reversed(range(layers)):
            columns = slice(layer * half, (layer + 1) * half)
            d_y = grads[0][:, columns]
            if layer < len(residual):
                d_h = d_h.mul_(math.sqrt(0.5))
                torch.mm(outputs[:, columns].T, d_h, out=d_residual[layer])
                d_bias[layer] = d_h.sum(0)
                d_y = torch.addmm(d_y, d_h, residual[layer].T)
            tangent, sigmoid = tangents[layer], sigmoids[layer]
            d_z = d_added[:, layer * double : (layer + 1) * double]
            through = d_y * sigmoid
            torch.mul(through, 1 - tangent * tangent, out=d_z[:, :half])
            torch.mul(through.mul_(tangent), 1 - sigmoid, out=d_z[:, half:])
            for tap, delay in enumerate(ctx.delays[layer]):  # type: ignore[attr-defined]
                now, then = delayed(len(d_h), delay)
                torch.mm(inputs[layer][then].T, d_z[now], out=d_gate[layer, tap])
                d_h[then].addmm_(d_z[now], gate[layer, tap].T)
        if ctx.common:  # type: ignore[attr-defined]
            d_added = d_added.sum(0, keepdim=True)
        return None, d_h, d_added, d_gate, d_residual, d_bias


class GatedStack(nn.Module):
    """Gated dilated convolutions with residual and skip connections (van den Oord et al., "WaveNet", 2016, eq. 5).

    Layer l, with * a convolution of `kernel` taps `dilations[l]` steps apart:

        y = tanh(W_f * h + V_f c) sigmoid(W_g * h + V_g c);    h <- (h + W_r y) sqrt(1/2);    skips += W_s y

    A causal stack looks back only; otherwise taps are centred. `cond` is the number of conditioning channels of every
    step, `style` the size of one vector for the whole sequence; 0 for none.
    """

    def __init__(
        self,
        channels: int,
        gates: int,
        skip: int,
        *,
        dilations: Sequence[int],
        kernel: int = 2,
        cond: int = 0,
        style: int = 0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.dilations, self.kernel, self.causal = tuple(dilations), kernel, causal
        layers = len(self.dilations)

        def uniform(*shape: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-1, 1) * fan_in**-0.5)

        self.gate = uniform(layers, kernel, channels, 2 * gates, fan_in=kernel * channels)
        self.gate_bias = nn.Parameter(torch.zeros(layers * 2 * gates))
        self.residual = uniform(layers - 1, gates, channels, fan_in=gates)
        self.residual_bias = nn.Parameter(torch.zeros(layers - 1, channels))
        self.cond = nn.Linear(cond, layers * 2 * gates, bias=False) if cond else None
        self.style = nn.Linear(style, layers * 2 * gates, bias=False) if style else None
        self.skip = nn.Linear(layers * gates, skip)

    @property
    def reach(self) -> int:
        """Steps before the present one (and as many after it, if not causal) that an output depends on."""
        span = (self.kernel - 1) * sum(self.dilations)
        return span if self.causal else span // 2

    def condition(
        self, cond: Float[Tensor, "N B C"] | None, style: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "n b LG"]:
        """What biases and conditioning add to the gates of all layers; it depends on no sample.

        The first two axes are 1 where nothing varies along them.
        """
        added = self.gate_bias.view(1, 1, -1)
        if self.cond is not None:
            added = functional.linear(cond, self.cond.weight, self.gate_bias)
        if self.style is not None:
            added = added + self.style(style)
        return added

    def forward(
        self,
        h: Float[Tensor, "N B R"],
        cond: Float[Tensor, "N B C"] | None = None,
        style: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "N B S"]:
        steps, batch, _ = h.shape
        kind = torch.get_autocast_dtype(h.device.type) if torch.is_autocast_enabled(h.device.type) else h.dtype
        added = self.condition(cond, style)
        if added.shape[:2] != (1, 1):
            added = added.expand(steps, batch, -1)
        last = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        delays = [[(last - tap) * dilation * batch for tap in range(self.kernel)] for dilation in self.dilations]
        weights = (self.gate, self.residual, self.residual_bias)
        rows = (h.flatten(0, 1), added.flatten(0, 1), *weights)
        outputs = GatedLayers.apply(delays, *(tensor.to(kind) for tensor in rows))
        return self.skip(outputs).unflatten(0, (steps, batch))


def factors(number: int, *, largest: int = 4) -> tuple[int, ...]:
    """Factors of a number, primes multiplied together while they stay at `largest` or below: 256 -> (4, 4, 4, 4)."""
    primes, divisor = [], 2
    while number > 1:
        if number % divisor == 0:
            primes.append(divisor)
            number //= divisor
        else:
            divisor += 1
    grouped: list[int] = []
    for prime in primes:
        if grouped and grouped[-1] * prime <= largest:
            grouped[-1] *= prime
        else:
            grouped.append(prime)
    return tuple(grouped)


class Upsample(nn.Module):
    """Frames to steps: for each factor s, repeat and smooth with a learned filter that all channels share.

    The filter of 2 s + 1 taps starts as a moving average (as in the upsampler of r9y9's WaveNet). It reaches no
    further than the neighbouring frames, so that both together are a product with an (s, 3) matrix:

        frame        f - 1            f           f + 1
        repeated  . . . . . .  |  . . . . . |  . . . . .
        filter          [- - - - - o - - - - -]
    """

    def __init__(self, rates: Sequence[int]) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.filters = nn.ParameterList(nn.Parameter(torch.full((2 * s + 1,), 1 / (2 * s + 1))) for s in self.rates)

    @property
    def reach(self) -> int:
        """Frames on either side that a step depends on, rounded up."""
        reach, rate = 0.0, 1
        for factor in self.rates:
            reach += 1 / rate
            rate *= factor
        return math.ceil(reach)

    def forward(self, x: Float[Tensor, "F B C"]) -> Float[Tensor, "N B C"]:
        shape = x.shape[1:]
        x = x.float().flatten(1)
        for factor, smooth in zip(self.rates, self.filters, strict=True):
            tap = torch.arange(2 * factor + 1, device=x.device)
            frame = (torch.arange(factor, device=x.device).unsqueeze(1) + tap) // factor  # 0, 1, 2: f - 1, f, f + 1
            matrix = smooth.new_zeros(factor, 3).scatter_add(1, frame, smooth.expand(factor, -1))
            near = functional.pad(x, (0, 0, 1, 1)).unfold(0, 3, 1)  # (F, BC, 3)
            x = (near @ matrix.T).transpose(1, 2).reshape(-1, x.shape[-1])
        return x.unflatten(1, shape)
