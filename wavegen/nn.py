"""Blocks with more than one user. Sequences are (N, B, C): steps, batch, channels.

With time first, delaying a batch of sequences is a slice of rows, so a dilated convolution is one matrix product for
each tap and nothing is copied; on a CPU in bfloat16 that is several times faster than `Conv1d`.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from wavegen.errors import WavegenError

__all__ = ["MLP", "ConvNet", "GatedNet", "GatedStack", "MaskedLinear", "SeparableStack"]


def delayed(rows: int, delay: int) -> tuple[slice, slice]:
    """Where y[n] and x[n - delay] both exist, as slices of y and of x; a negative delay looks ahead."""
    if delay >= 0:
        return slice(min(delay, rows), rows), slice(0, max(rows - delay, 0))
    return slice(0, max(rows + delay, 0)), slice(min(-delay, rows), rows)


class GatedLayers(torch.autograd.Function):
    """The gated layers of a stack with the derivative written out: rows (n, b) times channels.

    For layer l with taps W_k delayed by d_k rows, a bias w, conditioning c and residual weights R (the last layer has
    none):

        [t, s] = tanh(sum_k h[. - d_k] W_k + c V + w);    y = t (1 + s);    h <- (h + y R + r) sqrt(1/2)

    Returns all y side by side, (N * B, L * H). With the second half of W, V and w halved beforehand, y is twice
    tanh(a) sigmoid(b): the sigmoid is written as a tanh, because torch's sigmoid-like kernels are many times slower in
    some processes, and so that both halves are one pass over contiguous memory.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        delays: list[list[int]],
        h: Float[Tensor, "M R"],
        cond: Float[Tensor, "M C"],
        gate: Float[Tensor, "L K R G"],
        gate_bias: Float[Tensor, "L G"],
        gate_cond: Float[Tensor, "L C G"],
        residual: Float[Tensor, "l H R"],
        residual_bias: Float[Tensor, "l R"],
    ) -> Float[Tensor, "M LH"]:
        layers, half, root = len(gate), gate.shape[-1] // 2, math.sqrt(0.5)
        outputs = h.new_empty(len(h), layers * half)
        inputs, gates = [], []
        for layer in range(layers):
            z = torch.addmm(gate_bias[layer], cond, gate_cond[layer])
            for tap, delay in enumerate(delays[layer]):
                now, then = delayed(len(h), delay)
                z[now].addmm_(h[then], gate[layer, tap])
            z.tanh_()
            y = outputs[:, layer * half : (layer + 1) * half]
            torch.addcmul(z[:, :half], z[:, :half], z[:, half:], out=y)
            inputs.append(h)
            gates.append(z)
            if layer < len(residual):
                h = torch.addmm(h, y, residual[layer], beta=root, alpha=root).add_(residual_bias[layer], alpha=root)
        ctx.delays = delays  # type: ignore[attr-defined]
        ctx.save_for_backward(cond, outputs, gate, gate_cond, residual, *inputs, *gates)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cond, outputs, gate, gate_cond, residual, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        layers, half = len(gate), gate.shape[-1] // 2
        inputs, gates = saved[:layers], saved[layers:]
        d_gate, d_gate_cond, d_residual = (torch.empty_like(weight) for weight in (gate, gate_cond, residual))
        d_gate_bias = gate.new_empty(layers, 2 * half)
        d_residual_bias = residual.new_empty(len(residual), residual.shape[-1])
        d_h, d_cond = torch.zeros_like(inputs[0]), torch.zeros_like(cond)
        for layer in reversed(range(layers)):
            columns = slice(layer * half, (layer + 1) * half)
            d_y, t, s = grads[0][:, columns], gates[layer][:, :half], gates[layer][:, half:]
            if layer < len(residual):
                d_h = d_h.mul_(math.sqrt(0.5))
                torch.mm(outputs[:, columns].T, d_h, out=d_residual[layer])
                d_residual_bias[layer] = d_h.sum(0)
                d_y = torch.addmm(d_y, d_h, residual[layer].T)
            d_z = torch.empty_like(gates[layer])
            torch.addcmul(d_y, d_y, s, out=d_z[:, :half])
            torch.mul(d_y, t, out=d_z[:, half:])
            d_z = torch.ops.aten.tanh_backward(d_z, gates[layer])
            d_gate_bias[layer] = d_z.sum(0)
            torch.mm(cond.T, d_z, out=d_gate_cond[layer])
            d_cond.addmm_(d_z, gate_cond[layer].T)
            for tap, delay in enumerate(ctx.delays[layer]):  # type: ignore[attr-defined]
                now, then = delayed(len(d_h), delay)
                torch.mm(inputs[layer][then].T, d_z[now], out=d_gate[layer, tap])
                d_h[then].addmm_(d_z[now], gate[layer, tap].T)
        return None, d_h, d_cond, d_gate, d_gate_bias, d_gate_cond, d_residual, d_residual_bias


class GatedStack(nn.Module):
    """Gated dilated convolutions with residual and skip connections (van den Oord et al., "WaveNet", 2016, eq. 5).

    Layer l, with * a convolution of `kernel` taps `dilations[l]` steps apart:

        y = tanh(W_f * h + V_f c) sigmoid(W_g * h + V_g c);    h <- (h + W_r y) sqrt(1/2);    skips += W_s y

    A causal stack looks back only; otherwise taps, of an odd number, are centred. `cond` is the number of conditioning
    channels of every step, `style` the size of one vector for the whole sequence; 0 for none.

    Raises:
        WavegenError: an even number of taps to be centred.
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
        if not causal and kernel % 2 == 0:
            raise WavegenError(f"got a kernel of {kernel} taps to be centred, expected an odd number of them")
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
        for value, layer in self._given(cond, style):
            added = added + layer(value)
        return added

    def _given(self, cond: Tensor | None, style: Tensor | None) -> Iterator[tuple[Tensor, nn.Linear]]:
        """What conditions the stack, (N or 1, B, C), with the layer that takes it to the gates."""
        styles = None if style is None else style.unsqueeze(0)
        for name, value, layer in (("cond", cond, self.cond), ("style", styles, self.style)):
            if (value is None) != (layer is None):
                got, expected = ("no", "one") if value is None else ("a", "none")
                raise WavegenError(f"got {got} {name}, expected {expected}; it belongs to the stack's sizes")
            if value is not None and layer is not None:
                yield value, layer

    def _beside(
        self, cond: Float[Tensor, "N B C"] | None, style: Float[Tensor, "B D"] | None, h: Float[Tensor, "N B R"]
    ) -> tuple[Float[Tensor, "N B E"], Float[Tensor, "L E G"]]:
        """Conditioning and style side by side for every step, and the weights that take them to the gates."""
        parts, weights = [h[..., :0]], [self.gate_bias.new_zeros(len(self.gate_bias), 0)]
        for value, layer in self._given(cond, style):
            parts.append(value.expand(len(h), -1, -1))
            weights.append(layer.weight)
        return torch.cat(parts, dim=-1), torch.cat(weights, dim=1).unflatten(0, (len(self.gate), -1)).mT

    def forward(
        self,
        h: Float[Tensor, "N B R"],
        cond: Float[Tensor, "N B C"] | None = None,
        style: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "N B S"]:
        steps, batch, _ = h.shape
        kind = torch.get_autocast_dtype(h.device.type) if torch.is_autocast_enabled(h.device.type) else h.dtype
        beside, weight = self._beside(cond, style, h)
        slope = self.gate.new_ones(2, self.gate.shape[-1] // 2)
        slope[1] = 0.5  # see GatedLayers
        slope = slope.flatten()
        last = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        delays = [[(last - tap) * dilation * batch for tap in range(self.kernel)] for dilation in self.dilations]
        bias = self.gate_bias.unflatten(0, (len(self.gate), -1))
        inputs = (h.flatten(0, 1), beside.flatten(0, 1))
        weights = (self.gate * slope, bias * slope, weight * slope, self.residual / 2, self.residual_bias)
        twice = GatedLayers.apply(delays, *(tensor.to(kind) for tensor in (*inputs, *weights)))
        return functional.linear(twice, self.skip.weight / 2, self.skip.bias).unflatten(0, (steps, batch))


class SeparableStack(nn.Module):
    """Gated convolutions along time, channel by channel, then across channels; residual connections only.

    Zhai et al., "SqueezeWave" (2020), section 3.2, without its batch normalisation, under which the likelihood of an
    item would depend on the others of its batch. Layer l, with * a convolution of each channel by itself:

        y = tanh(W_f (d * h) + V_f c) sigmoid(W_g (d * h) + V_g c);    h <- h + W_r y
    """

    def __init__(self, channels: int, *, dilations: Sequence[int], kernel: int = 3, cond: int = 0) -> None:
        super().__init__()
        self.dilations, self.kernel = tuple(dilations), kernel
        self.depthwise = nn.Parameter(torch.randn(len(self.dilations), kernel, channels) * kernel**-0.5)
        self.gates = nn.ModuleList(nn.Linear(channels, 2 * channels) for _ in self.dilations)
        self.residuals = nn.ModuleList(nn.Linear(channels, channels) for _ in self.dilations)
        self.cond = nn.Linear(cond, len(self.dilations) * 2 * channels, bias=False) if cond else None

    @property
    def reach(self) -> int:
        """Steps before the present one, and after it, that an output depends on."""
        return self.kernel // 2 * sum(self.dilations)

    def forward(self, h: Float[Tensor, "N B C"], cond: Float[Tensor, "N B D"] | None = None) -> Float[Tensor, "N B C"]:
        added = [0.0] * len(self.dilations)
        if cond is not None and self.cond is not None:
            added = self.cond(cond).chunk(len(self.dilations), dim=-1)
        layers = zip(self.dilations, self.depthwise, self.gates, self.residuals, added, strict=True)
        for dilation, taps, gate, residual, beside in layers:
            reach = self.kernel // 2 * dilation
            padded = functional.pad(h, (0, 0, 0, 0, reach, reach))
            smooth = sum(padded[tap * dilation :][: len(h)] * weight for tap, weight in enumerate(taps))
            a, b = (gate(smooth) + beside).chunk(2, dim=-1)
            h = h + residual(torch.tanh(a) * (0.5 + 0.5 * torch.tanh(b / 2)))
        return h


class MaskedLinear(nn.Linear):
    """A linear layer without the connections where its mask (outputs, inputs) is False."""

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "O I"]) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Float[Tensor, "B I"]) -> Float[Tensor, "B O"]:
        return functional.linear(input, self.weight * self.mask, self.bias)


class Conditioned(nn.Sequential):
    """Layers with SiLU between them, over x (B, C, ...) and a vector (B, D) of conditions; it gives zeros at first."""

    def __init__(self, layers: Sequence[nn.Linear | nn.Conv1d | nn.Conv2d]) -> None:
        last = layers[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        super().__init__(*(part for layer in layers[:-1] for part in (layer, nn.SiLU())), last)

    def forward(self, x: Float[Tensor, "B C *S"], cond: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B E *S"]:
        if cond is not None:
            places = [1] * (x.ndim - 2)
            x = torch.cat([x, cond.view(*cond.shape, *places).expand(-1, -1, *x.shape[2:])], dim=1)
        return super().forward(x)


class MLP(Conditioned):
    """A multilayer perceptron of points, with `hidden` layers of so many units each.

    If `causal`, output i sees inputs before i alone, and all conditions; so does output i of each further set of
    `inputs` outputs (Germain et al., "MADE", 2015, eq. 8 and 9).
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: Sequence[int], cond: int = 0, causal: bool = False
    ) -> None:
        if not causal:
            super().__init__([nn.Linear(*sizes) for sizes in pairwise([inputs + cond, *hidden, outputs])])
            return
        # a unit that knows k has seen the first k inputs, so input i knows i + 1 and output i may know i
        least, most = int(not cond), max(inputs - 1, 1)
        between = [least + torch.arange(width) * (most - least + 1) // width for width in hidden]
        knows = [torch.cat([torch.arange(inputs) + 1, torch.zeros(cond)]), *between, torch.arange(outputs) % inputs]
        super().__init__([MaskedLinear(after.unsqueeze(1) >= before) for before, after in pairwise(knows)])


class ConvNet(Conditioned):
    """Convolutions of sequences (1 space) or images (2), with `hidden` layers of so many channels.

    The first and the last are 3 wide, those between 1 (Kingma and Dhariwal, "Glow", 2018, appendix B).
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: Sequence[int], spaces: int, cond: int = 0) -> None:
        kind = nn.Conv1d if spaces == 1 else nn.Conv2d
        widths = [3, *[1] * (len(hidden) - 1), 3]
        sizes = pairwise([inputs + cond, *hidden, outputs])
        super().__init__([kind(*s, width, padding=width // 2) for s, width in zip(sizes, widths, strict=True)])


class GatedNet(nn.Module):
    """A coupling's network over sequences: WaveNet's gated convolutions, looking both ways, and zeros at first.

    It works on (T, B, C) in memory, so a sequence (B, C, T) that is a view of that costs no copy. `cond` (B, D, T) is
    aligned with the sequence.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: int,
        *,
        dilations: Sequence[int],
        kernel: int = 3,
        cond: int = 0,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.start = nn.Linear(inputs, channels)
        sizes: dict[str, Any] = {"dilations": dilations, "kernel": kernel, "cond": cond}
        self.stack = (
            SeparableStack(channels, **sizes)
            if separable
            else GatedStack(channels, channels, channels, causal=False, **sizes)
        )
        self.end = nn.Linear(channels, outputs)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Float[Tensor, "B A T"], cond: Float[Tensor, "B D T"] | None = None) -> Float[Tensor, "B C T"]:
        steps = self.stack(self.start(x.permute(2, 0, 1)), None if cond is None else cond.permute(2, 0, 1))
        with torch.autocast(x.device.type, enabled=False):  # shifts and scales need more than bfloat16's eight bits
            return self.end(steps.to(x.dtype)).permute(1, 2, 0)
