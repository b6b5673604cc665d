"""What the layers of a WaveGlow do, in ONNX: networks and upsamplers forwards, transforms backwards."""

from functools import singledispatch
from typing import Any

import torch
from torch import nn

from wavegen.errors import WavegenError
from wavegen.export.graph import Graph, ints
from wavegen.flows.base import Beyond, Chain
from wavegen.flows.channels import Invertible1x1, Permutation
from wavegen.flows.coupling import Coupling
from wavegen.nn import GatedNet, GatedStack, SeparableStack
from wavegen.vocoders.conditioning import Smooth, Transposed, Upsample

__all__ = ["emit"]


@singledispatch
def emit(layer: nn.Module, graph: Graph, x: str, cond: str = "") -> str:
    """Add what a layer does to sequences (1, C, N), or the inverse of a transform; returns the name of what it made."""
    # layers below are Any where torch's containers hide from a type checker what is in them
    raise WavegenError(f"got a {type(layer).__name__} in a WaveGlow, expected layers known to the export; add it there")


@emit.register
def _(chain: Chain, graph: Graph, x: str, cond: str = "") -> str:
    for step in reversed(chain.steps):
        x = emit(step, graph, x, cond)
    return x


@emit.register
def _(beyond: Beyond, graph: Graph, x: str, cond: str = "") -> str:
    left, rest = graph.split(x, beyond.k)
    return graph("Concat", left, emit(beyond.step, graph, rest, cond), axis=1)


@emit.register
def _(mix: Invertible1x1, graph: Graph, x: str, cond: str = "") -> str:
    return graph.linear(x, mix.inverse_matrix)


@emit.register
def _(permutation: Permutation, graph: Graph, x: str, cond: str = "") -> str:
    return graph("Gather", x, ints(*permutation.back), axis=1)


@emit.register(Coupling)
def _(coupling: Any, graph: Graph, x: str, cond: str = "") -> str:
    a, b = graph.split(x, coupling.keep)
    shift, log_scale = graph.split(emit(coupling.net, graph, a, cond), coupling.net.end.out_features // 2)
    if coupling.bound is not None:
        log_scale = graph("Mul", graph("Tanh", graph("Div", log_scale, coupling.bound)), coupling.bound)
    return graph("Concat", a, graph("Div", graph("Sub", b, shift), graph("Exp", log_scale)), axis=1)


@emit.register
def _(net: GatedNet, graph: Graph, x: str, cond: str = "") -> str:
    stack, end, bias = net.stack, net.end.weight, net.end.bias
    if isinstance(stack, GatedStack):  # its skip connections and the end are one matrix
        end, bias = end @ stack.skip.weight, end @ stack.skip.bias + bias
    return graph.linear(emit(stack, graph, graph.linear(x, net.start.weight, net.start.bias), cond), end, bias)


def gated(graph: Graph, z: str, channels: int) -> str:
    a, b = graph.split(z, channels)
    return graph("Mul", graph("Tanh", a), graph("Sigmoid", b))


@emit.register(GatedStack)
def _(stack: Any, graph: Graph, h: str, cond: str = "") -> str:
    layers, gates = len(stack.gate), stack.gate.shape[-1] // 2
    beside, bias, ys = stack.cond.weight.chunk(layers), stack.gate_bias.chunk(layers), []
    for layer, dilation in enumerate(stack.dilations):
        reach, taps = stack.kernel // 2 * dilation, stack.gate[layer].permute(2, 1, 0)
        z = graph("Conv", h, taps, bias[layer], pads=[reach, reach], dilations=[dilation])
        ys.append(gated(graph, graph("Add", z, graph.linear(cond, beside[layer])), gates))
        if layer < len(stack.residual):
            more = graph.linear(ys[-1], stack.residual[layer].T, stack.residual_bias[layer])
            h = graph("Mul", graph("Add", h, more), 0.5**0.5)
    return graph("Concat", *ys, axis=1)


@emit.register(SeparableStack)
def _(stack: Any, graph: Graph, h: str, cond: str = "") -> str:
    channels, beside = stack.depthwise.shape[2], stack.cond.weight.chunk(len(stack.dilations))
    for layer, dilation in enumerate(stack.dilations):
        reach, taps = stack.kernel // 2 * dilation, stack.depthwise[layer].T.unsqueeze(1)
        smooth = graph("Conv", h, taps, group=channels, pads=[reach, reach], dilations=[dilation])
        gate, residual = stack.gates[layer], stack.residuals[layer]
        z = graph("Add", graph.linear(smooth, gate.weight, gate.bias), graph.linear(cond, beside[layer]))
        h = graph("Add", h, graph.linear(gated(graph, z, channels), residual.weight, residual.bias))
    return h


@emit.register(Smooth)
def _(layers: Any, graph: Graph, x: str, cond: str = "") -> str:
    for i, layer in enumerate(layers.context):
        x = graph("LeakyRelu", x, alpha=0.2) if i else x
        x = graph("Conv", x, layer.weight, layer.bias, pads=[*layer.padding, *layer.padding])
    x = graph("Transpose", x, perm=[1, 0, 2])  # every channel by itself
    for factor, taps in zip(layers.upsample.rates, layers.upsample.filters, strict=True):
        alone = Upsample([factor])
        alone.filters[0] = taps
        matrix = alone(torch.eye(3).unsqueeze(1))[factor : 2 * factor]  # (factor, 1, 3), of the middle frame
        steps = graph("Transpose", graph("Conv", x, matrix, pads=[1, 1]), perm=[0, 2, 1])
        x = graph("Reshape", steps, ints(0, 1, -1))
    return graph("Transpose", x, perm=[1, 0, 2])


@emit.register(Transposed)
def _(layer: Any, graph: Graph, x: str, cond: str = "") -> str:
    bands, hop = layer.upsample.out_channels, layer.upsample.stride[0]
    late = layer.upsample.kernel_size[0] - hop  # what comes after the last frame is dropped
    x = graph("ConvTranspose", x, layer.upsample.weight, layer.upsample.bias, strides=[hop], pads=[0, late])
    steps = graph("Transpose", graph("Reshape", x, ints(bands, -1, layer.group)), perm=[0, 2, 1])
    return graph("Reshape", steps, ints(1, bands * layer.group, -1))
