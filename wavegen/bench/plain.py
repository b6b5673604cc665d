"""The same networks as they are usually run in PyTorch: what our own ways are measured against, and checked by."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wavegen.errors import WavegenError
from wavegen.flows.base import Beyond, Chain, Transform
from wavegen.flows.channels import Invertible1x1, Permutation
from wavegen.flows.coupling import Coupling
from wavegen.nn import GatedNet, GatedStack
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.vocoders.wavenet import WaveNet

__all__ = ["plain_decode", "plain_loop"]


@torch.no_grad()
def plain_loop(net: WaveNet, *, steps: int) -> int:
    """Generate with torch operations and a queue for each layer; returns the samples made."""
    stack, width = net.stack, net.residual
    taps = [layer.reshape(-1, layer.shape[-1]).T.contiguous() for layer in stack.gate]
    biases = stack.gate_bias.unflatten(0, (net.layers, -1))
    skips = stack.skip.weight.chunk(net.layers, dim=1)
    queues = [torch.zeros(1, (net.kernel - 1) * d + 1, width) for d in net.dilations]
    last = torch.zeros(1, 1, net.block)
    for _ in range(steps):
        h, skip = net.embed(last)[0], stack.skip.bias
        for layer, (dilation, queue) in enumerate(zip(net.dilations, queues, strict=True)):
            queue[:, :-1] = queue[:, 1:].clone()
            queue[:, -1] = h
            z = functional.linear(queue[:, ::dilation].flatten(1), taps[layer], biases[layer])
            a, b = z.chunk(2, dim=-1)
            y = torch.tanh(a) * torch.sigmoid(b)
            skip = skip + functional.linear(y, skips[layer])
            if layer < len(stack.residual):
                h = (h + y @ stack.residual[layer] + stack.residual_bias[layer]) * 0.5**0.5
        params = net.out(torch.relu(net.hidden(torch.relu(skip))))
        own, links = params.split([net.block * net.sample_law.width, net.links], dim=-1)
        noise = net.sample_law.noise((1, net.block))
        drawn = net.sample_law.sample(own.unflatten(-1, (net.block, -1)), noise)
        for p in range(1, net.block if net.links else 0):
            first = p * (p - 1) // 2
            drawn[:, p] += (links[:, first : first + p] * drawn[:, :p]).sum(-1)
        last = drawn.unsqueeze(0)
    return steps * net.block


@torch.no_grad()
def plain_decode(net: WaveGlow, z: Float[Tensor, "B G N"], mel: Float[Tensor, "B M F"]) -> Float[Tensor, "B T"]:
    """`WaveGlow.decode` by `conv1d` on (B, C, T) in float32, operation by operation, as in the paper's own code."""
    cond = net.condition(mel).contiguous()

    def undo(step: Transform, x: Tensor) -> Tensor:
        if isinstance(step, Chain):
            for inner in reversed(step.steps):
                x = undo(inner, x)  # type: ignore[arg-type]
        elif isinstance(step, Beyond):
            x = torch.cat([x[:, : step.k], undo(step.step, x[:, step.k :])], dim=1)
        elif isinstance(step, Invertible1x1):
            x = functional.conv1d(x, step.inverse_matrix.unsqueeze(-1))
        elif isinstance(step, Coupling):
            a, b = x[:, : step.keep], x[:, step.keep :]
            shift, log_scale = plain_net(step.net, a, cond).chunk(2, dim=1)
            if step.bound is not None:
                log_scale = step.bound * torch.tanh(log_scale / step.bound)
            x = torch.cat([a, (b - shift) / torch.exp(log_scale)], dim=1)
        elif isinstance(step, Permutation):
            x = x[:, step.back]
        else:
            raise WavegenError(f"got a {type(step).__name__}, expected a transform of WaveGlow; write its plain way")
        return x

    return undo(net.flow, z).transpose(1, 2).flatten(1)


def plain_net(net: nn.Module, x: Float[Tensor, "B A N"], cond: Float[Tensor, "B D N"]) -> Float[Tensor, "B C N"]:
    """A coupling's network, layer by layer."""
    if not isinstance(net, GatedNet) or not isinstance(stack := net.stack, GatedStack) or stack.cond is None:
        raise WavegenError("got a coupling of another kind, expected gated convolutions with a condition")
    layers = len(stack.dilations)
    h = functional.conv1d(x, net.start.weight.unsqueeze(-1), net.start.bias)
    beside = functional.conv1d(cond, stack.cond.weight.unsqueeze(-1), stack.gate_bias).chunk(layers, dim=1)
    skips = stack.skip.weight.chunk(layers, dim=1)
    skip = stack.skip.bias.unsqueeze(-1)
    for layer, dilation in enumerate(stack.dilations):
        reach = stack.kernel // 2 * dilation
        gates = functional.conv1d(h, stack.gate[layer].permute(2, 1, 0), padding=reach, dilation=dilation)
        a, b = (gates + beside[layer]).chunk(2, dim=1)
        y = torch.tanh(a) * torch.sigmoid(b)
        skip = skip + functional.conv1d(y, skips[layer].unsqueeze(-1))
        if layer < len(stack.residual):
            back = functional.conv1d(y, stack.residual[layer].T.unsqueeze(-1), stack.residual_bias[layer])
            h = (h + back) * 0.5**0.5
    return functional.conv1d(skip, net.end.weight.unsqueeze(-1), net.end.bias)
