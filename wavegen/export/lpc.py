"""Linear prediction as in `audio.lpc`, in ONNX, without a loop over samples one by one."""

import numpy as np
import torch
from torch.nn import functional

from wavegen.audio.lpc import CORRECTION, FLOOR, autocorrelation_basis
from wavegen.audio.mel import MelSpec
from wavegen.export.graph import ALL, Graph, ints

__all__ = ["coloured"]

PARTS = 4  # filters to a frame


def coloured(graph: Graph, excitation: str, spec: MelSpec, order: int) -> str:
    """The all-pole filter of `audio.lpc`, in float64.

    The segments, through each of which a filter is held, are filtered side by side: from silence, and then from the
    samples that come before each. Those follow from segment to segment, the last of one being what it makes of
    silence plus what the impulse response h makes of the samples before it.
    """
    from onnx import TensorProto

    held = spec.hop // PARTS
    last = min(order, held)
    a, error = levinson(graph, correlation(graph, spec, order), order)
    u = graph("Reshape", graph("Cast", excitation, to=TensorProto.DOUBLE), ints(-1, held))
    driven = graph("Transpose", graph("Mul", u, graph("Transpose", graph("Sqrt", error))))  # (held, N)
    silence = graph("Mul", a, np.zeros(1))
    _, _, response = filtered(graph, a, silence, graph("Add", graph.cut(silence, 0, 1, axis=0), np.eye(held, 1)))
    _, new, _ = filtered(graph, a, silence, driven)
    t, later = np.arange(last), np.arange(held - 1, held - 1 - last, -1)
    to_a = np.minimum(np.arange(order)[:, None] + t, order)  # a[m + t] weighs past sample m at t; beyond lies a zero
    to_h = np.where(later < t[:, None], held, later - t[:, None])  # h[i - t] is what t brings about at i

    def segment(inner: Graph, past: str, a: str, h: str, new: str) -> list[str]:
        predicted = inner("MatMul", past, inner("Gather", a, to_a))
        next_past = inner("Add", inner("MatMul", predicted, inner("Gather", h, to_h)), new)
        if order > held:
            next_past = inner("Concat", next_past, inner.cut(past, 0, order - held, axis=1), axis=1)
        return [next_past, inner("Identity", past)]

    ended = [graph("Pad", graph("Transpose", x), ints(0, 0, 0, 1), np.array(0.0)) for x in (a, response)]
    new = graph("Transpose", graph.cut(new, 0, last, axis=0))
    _, pasts = graph.scan(segment, [np.zeros((1, order))], [*ended, new])
    *_, wav = filtered(graph, a, graph("Transpose", graph("Squeeze", pasts, ints(1))), driven)
    return graph("Reshape", graph("Cast", graph("Transpose", wav), to=TensorProto.FLOAT), ints(1, -1))


def filtered(graph: Graph, a: str, past: str, driven: str) -> list[str]:
    """N filters with predictors a (order, N), side by side, from past samples (order, N), newest first, on.

    `driven` (T, N) is what they add to their predictions. Returns a, the last samples likewise, and all (T, N).
    """

    def step(inner: Graph, a: str, past: str, driven: str) -> list[str]:
        new = inner("Add", inner("ReduceSum", inner("Mul", a, past), ints(0), keepdims=0), driven)
        row = inner("Unsqueeze", new, ints(0))
        return [inner("Identity", a), inner("Concat", row, inner.cut(past, 0, -1, axis=0), axis=0), new]

    return graph.scan(step, [a, past], [driven])


def correlation(graph: Graph, spec: MelSpec, order: int) -> str:
    """The autocorrelation (order + 1, N) of every segment, as in `audio.lpc.linear_prediction`."""
    from onnx import TensorProto

    zero, one = (spec.amplitude(torch.full((spec.bins, 1), level, dtype=torch.float64)).log() for level in (0.0, 1.0))
    mel = graph("Cast", graph("Squeeze", "mel", ints(0)), to=TensorProto.DOUBLE)
    power = graph("Exp", graph("Add", graph("Mul", mel, 2 * (one - zero)), 2 * zero))  # log amplitudes are affine in it
    white = torch.zeros(order + 1, 1, dtype=torch.float64)
    white[0] = 1
    frames = graph("MatMul", autocorrelation_basis(spec, order).T * (1 + CORRECTION * white), power)
    between = functional.interpolate(torch.eye(3, dtype=torch.float64).unsqueeze(1), scale_factor=PARTS, mode="linear")
    around = graph("Pad", frames, ints(0, 1, 0, 1), mode="edge")
    shifted = [graph("Unsqueeze", graph.cut(around, i, (i - 2) or ALL, axis=1), ints(2)) for i in range(3)]
    parts = graph("MatMul", graph("Concat", *shifted, axis=2), between[:, 0, PARTS : 2 * PARTS])
    return graph("Add", graph("Reshape", parts, ints(order + 1, -1)), FLOOR * white)


def levinson(graph: Graph, lags: str, order: int) -> tuple[str, str]:
    """Predictors (order, N) and their error powers (1, N), as by `audio.lpc.levinson`."""
    error, a, flipped = graph.cut(lags, 0, 1, axis=0), "", ""
    for k in range(1, order + 1):
        reflection = graph.cut(lags, k, k + 1, axis=0)
        if a:
            future = graph("ReduceSum", graph("Mul", flipped, graph.cut(lags, 1, k, axis=0)), ints(0))
            reflection = graph("Div", graph("Sub", reflection, future), error)
            left = graph("Sub", a, graph("Mul", reflection, flipped))
            right = graph("Sub", flipped, graph("Mul", reflection, a))
            a, flipped = graph("Concat", left, reflection, axis=0), graph("Concat", reflection, right, axis=0)
        else:
            a = flipped = reflection = graph("Div", reflection, error)
        error = graph("Mul", error, graph("Sub", np.ones(1), graph("Mul", reflection, reflection)))
    return a, error
