"""Incremental WaveNet: one step costs one column of every layer, whatever the receptive field.

Everything that does not hang on the last sample (conditioning of all layers, noise) comes in as arrays; the state goes
in and is advanced; nothing else exists. Streams of a batch share each pass over the weights, and every stream is
computed in the same order as it would be alone, so that a batch of B equals B batches of one, bit for bit.

One core moves weights more slowly than it multiplies, so weights may be stored as bfloat16 (the upper half of a
float32, here in uint16) and are widened on the way into a float32 sum.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

__all__ = ["State", "Weights", "filter_all_pole", "generate"]

ROWS = 4  # of a weight matrix per pass over the outputs; row counts are multiples of it


class Weights(NamedTuple):
    """A WaveNet's weights, contiguous and in the order the kernel reads them; float32, or uint16 holding bfloat16.

    L layers, K taps, R residual, H gate pairs, S skip, E head, C classes (1 for continuous laws), P samples a step.
    """

    front: np.ndarray  # (P, C, R) what each sample of the last step adds to the first layer's input; float32
    front_bias: np.ndarray  # (R,) float32
    gate: np.ndarray  # (L, K * R, 2 * H) taps, oldest first; its bias is in the conditioning
    outward: np.ndarray  # (L, H, S + R) to skip, and to residual scaled by sqrt(1/2)
    residual_bias: np.ndarray  # (L, R) float32, scaled likewise
    skip_bias: np.ndarray  # (S,) float32
    head: np.ndarray  # (S, E)
    head_bias: np.ndarray  # (E,) float32
    out: np.ndarray  # (E, O), O parameters of a step
    out_bias: np.ndarray  # (O,) float32
    dilations: np.ndarray  # (L,) int64


class State(NamedTuple):
    """All that a stream remembers: inputs of the last steps of every layer, and the last step itself."""

    rings: np.ndarray  # (sum of (K - 1) * dilation, B, R) float32, one ring after another
    last: np.ndarray  # (B, P) float32: the last step's samples
    step: np.ndarray  # (1,) int64


@intrinsic
def _from_bits(typingctx, bits):  # noqa: ANN001, ANN202 - numba's calling convention
    """Reinterpret 32 bits as a float32."""

    def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


def _widen(value):  # noqa: ANN001, ANN202
    """A stored weight as float32."""


@overload(_widen)
def _widen_overload(value):  # noqa: ANN001, ANN202
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: _from_bits(np.int32(np.uint32(value) << np.uint32(16)))


@njit(nogil=True, fastmath=True, error_model="numpy", inline="always")
def _exp(x: float) -> float:
    """e^x for float32 in [-87, 88], within 2e-7 relative: 2^n from the exponent bits, e^r from its Taylor series."""
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
    p = np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = (p * r + np.float32(1)) * r + np.float32(1)
    return p * _from_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(nogil=True, fastmath=True, error_model="numpy", inline="always")
def _bound(x: float, limit: float) -> float:
    return min(max(x, -limit), limit)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _affine(weight, x, y):  # noqa: ANN001, ANN202
    """y += x @ weight, for each stream: (m, n), (B, m), (B, n). Views of one row each let the compiler vectorise."""
    for b in range(x.shape[0]):
        x_b, y_b = x[b], y[b]
        for i in range(0, weight.shape[0], ROWS):
            w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
            x0, x1, x2, x3 = x_b[i], x_b[i + 1], x_b[i + 2], x_b[i + 3]
            for j in range(weight.shape[1]):
                y_b[j] += (_widen(w0[j]) * x0 + _widen(w1[j]) * x1) + (_widen(w2[j]) * x2 + _widen(w3[j]) * x3)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gate(z, y):  # noqa: ANN001, ANN202
    """y = tanh(a) sigmoid(b), z = [a, b]: one division for both."""
    half = y.shape[1]
    for b in range(y.shape[0]):
        for j in range(half):
            tangent = _exp(_bound(np.float32(-2) * z[b, j], np.float32(40)))
            sigmoid = _exp(_bound(-z[b, j + half], np.float32(40)))
            y[b, j] = (np.float32(1) - tangent) / ((np.float32(1) + tangent) * (np.float32(1) + sigmoid))


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _choose(logits, uniform, sharpness):  # noqa: ANN001, ANN202
    """The class whose interval of the cumulative distribution holds `uniform`; logits are overwritten."""
    top = logits[0]
    for k in range(1, len(logits)):
        top = max(top, logits[k])
    total = np.float32(0)
    for k in range(len(logits)):
        logits[k] = _exp(max((logits[k] - top) * sharpness, np.float32(-87)))
        total += logits[k]
    wanted, reached = uniform * total, np.float32(0)
    for k in range(len(logits) - 1):
        reached += logits[k]
        if reached > wanted:
            return k
    return len(logits) - 1


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _draw_mixture(params, noise, components, log_scale_min, temperature):  # noqa: ANN001, ANN202
    """A sample of `distributions.MixtureOf...` from one (3 * components) or two parameters."""
    k = 0
    if components > 1:
        k = _choose(params[:components], noise[0], np.float32(1) / max(temperature, np.float32(1e-6)))
    mean, log_scale = params[-2 * components + k], params[-components + k]
    return mean + _exp(_bound(max(log_scale, log_scale_min), np.float32(80))) * temperature * noise[1]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _layers(weights, state, condition, taps, z, y, sums):  # noqa: ANN001, ANN202
    """Run the gated stack for one step, advancing the rings.

    sums (B, S + R) holds the skip connections so far and the layer's input side by side, so that one pass over the
    weights adds to both; taps (B, K * R), z (B, 2H) and y (B, H) are scratch.
    """
    layers, width = weights.residual_bias.shape
    skip, others = sums.shape[1] - width, taps.shape[1] - width
    half = np.float32(0.7071067811865476)
    start, step = 0, state.step[0]
    for layer in range(layers):
        dilation = weights.dilations[layer]
        length = others // width * dilation
        for b in range(sums.shape[0]):
            tap_b, sums_b, bias = taps[b], sums[b], weights.residual_bias[layer]
            for column in range(0, others, width):
                old = state.rings[start + (step + column // width * dilation) % length, b]
                for j in range(width):
                    tap_b[column + j] = old[j]
            new = state.rings[start + step % length, b]
            for j in range(width):
                h = sums_b[skip + j]
                tap_b[others + j] = h
                new[j] = h
                sums_b[skip + j] = h * half + bias[j]
            z[b] = condition[b, layer]
        start += length
        _affine(weights.gate[layer], taps, z)
        _gate(z, y)
        _affine(weights.outward[layer], y, sums)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _head(weights, sums, skip, hidden, params):  # noqa: ANN001, ANN202
    """ReLU, affine, ReLU, affine: from sums (B, S + R), of which skip (B, S) is made, to params (B, O)."""
    for b in range(skip.shape[0]):
        hidden[b] = weights.head_bias
        params[b] = weights.out_bias
        for j in range(skip.shape[1]):
            skip[b, j] = max(sums[b, j], np.float32(0))
    _affine(weights.head, skip, hidden)
    for b in range(hidden.shape[0]):
        for j in range(hidden.shape[1]):
            hidden[b, j] = max(hidden[b, j], np.float32(0))
    _affine(weights.out, hidden, params)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def generate(weights, state, condition, noise, components, log_scale_min, temperature, table):  # noqa: ANN001, ANN201
    """Draw N steps of P samples for B streams.

    condition: (N or 1, B, L, 2H) float32, with the gates' bias; noise: (N, B, P, 2) float32 as `Law.noise` makes it;
    table: (C,) float32, the value of each mu-law class, for a softmax (components 0); unused otherwise.
    Returns (B, N * P) float32, and the state after the last step; the one passed in is left as it was.
    """
    state = State(state.rings.copy(), state.last.copy(), state.step.copy())
    steps, batch, block = noise.shape[0], noise.shape[1], noise.shape[2]
    classes = weights.front.shape[1]
    width = classes if components == 0 else (2 if components == 1 else 3 * components)
    taps = np.empty((batch, weights.gate.shape[1]), np.float32)
    z = np.empty((batch, weights.gate.shape[2]), np.float32)
    y = np.empty((batch, weights.outward.shape[1]), np.float32)
    sums = np.empty((batch, weights.outward.shape[2]), np.float32)
    skip = np.empty((batch, len(weights.skip_bias)), np.float32)
    hidden = np.empty((batch, weights.head.shape[1]), np.float32)
    params = np.empty((batch, weights.out.shape[1]), np.float32)
    samples = np.empty((batch, steps * block), np.float32)
    for n in range(steps):
        for b in range(batch):
            sums[b, : skip.shape[1]] = weights.skip_bias
            h = sums[b, skip.shape[1] :]
            h[:] = weights.front_bias
            for p in range(block):
                entry = int(state.last[b, p]) if components == 0 else 0
                scale = np.float32(1) if components == 0 else state.last[b, p]
                row = weights.front[p, entry]
                for j in range(len(row)):
                    h[j] += row[j] * scale
        _layers(weights, state, condition[n % condition.shape[0]], taps, z, y, sums)
        _head(weights, sums, skip, hidden, params)
        for b in range(batch):
            links = block * width
            for p in range(block):
                own = params[b, p * width : (p + 1) * width]
                if components == 0:
                    code = _choose(own, noise[n, b, p, 0], np.float32(1) / max(temperature, np.float32(1e-6)))
                    state.last[b, p] = code
                    samples[b, n * block + p] = table[code]
                else:
                    drawn = _draw_mixture(own, noise[n, b, p], components, log_scale_min, temperature)
                    for q in range(p):  # what the earlier samples of this step say about this one
                        drawn += params[b, links + q] * state.last[b, q]
                    links += p
                    state.last[b, p] = drawn
                    samples[b, n * block + p] = drawn
        state.step[0] += 1
    return samples, state


@njit(cache=True, nogil=True)
def filter_all_pole(excitation, coefficients, gain, past):  # noqa: ANN001, ANN201
    """x[t] = sum_k a[k] x[t - k] + g u[t], in float64; each filter held for T / N samples.

    excitation: (B, T) float32; coefficients: (B, N, order); gain: (B, N); past: (B, order) float64, the samples before
    the first, oldest first. Returns (B, T) float32, and the last `order` samples in float64.
    """
    batch, samples = excitation.shape
    count, order = coefficients.shape[1], coefficients.shape[2]
    held = samples // count
    wav = np.empty((batch, order + samples), np.float64)
    for b in range(batch):
        wav[b, :order] = past[b]
        for t in range(samples):
            n = t // held
            value = np.float64(gain[b, n]) * excitation[b, t]
            for k in range(order):
                value += coefficients[b, n, k] * wav[b, order + t - 1 - k]
            wav[b, order + t] = value
    return wav[:, order:].astype(np.float32), wav[:, samples:].copy()
