"""r9y9's WaveNet (https://github.com/r9y9/wavenet_vocoder), of versions 0.1 and 0.2, to ours.

    first_conv                      past sample, or its class, to channels
    conv_layers.l.conv              gates of layer l: tanh above sigmoid, taps oldest first
    conv_layers.l.conv1x1c          what the mel adds to them; with a bias in 0.1
    conv_layers.l.conv1x1_out       residual; conv1x1_skip: skip connection
    last_conv_layers.1 and .3       from skip connections to the parameters of the sample's law
    upsample_net                    0.2: a convolution over frames (conv_in), then repeating and smoothing
    upsample_conv                   0.1: transposed convolutions over bands and time, each followed by a ReLU

In 0.2 the sum of the L skip connections is scaled by sqrt(1 / L); in 0.1 a layer's is added to those before and the sum
scaled by sqrt(1/2). Both are factors of the skip weights.

What lay around the network is not in a checkpoint. 0.2 standardised mels by the mean and variance of a corpus, and its
presets learned sound with pre-emphasis 0.85 at gain 0.55. 0.1 saw mels of an lws window, sqrt(Hann / 2), whose frame f
lay on sample f * hop + n_fft / 2: fed with ours, it speaks 512 samples late. Both cut to mu-law classes where we round,
half a step apart, which counts in a likelihood only.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.interop.weights import Weights
from wavegen.vocoders.conditioning import factors
from wavegen.vocoders.wavenet import WaveNet

__all__ = ["is_wavenet", "wavenet"]

STACKS = {20: 2, 24: 4, 30: 3}  # that so many layers are in, in published models; no weight shows it

Part = tuple[dict[str, Tensor], dict[str, Any]]  # weights of ours, and the fields that their shapes show


def is_wavenet(weights: Weights) -> bool:
    """Whether these are the weights of a WaveNet of r9y9's."""
    return "first_conv.weight" in weights and "last_conv_layers.1.weight" in weights


def wavenet(weights: Weights, *, mel: MelSpec | None = None, stacks: int | None = None) -> tuple[WaveNet, str]:
    """The WaveNet of these weights, all of which are taken, and the name of their layout.

    `mel` and `stacks` default to those of the published models.

    Raises:
        WavegenError: another layout, a mel that does not fit, or a number of layers whose stacks must be given.
    """
    old = "upsample_conv.0.weight" in weights
    layers = weights.count("conv_layers")
    if stacks is None and layers not in STACKS:
        raise WavegenError(f"got {layers} layers, whose dilations no weight shows; say how many stacks they are in")
    ends, widths = _ends(weights)
    stack, gates = _stack(weights, layers, widths["residual"], widths["skip"], old=old)
    upsampled, upsampling = _transposed(weights) if old else _smoothed(weights, gates["cond"])
    weights.finish()
    mel = mel or MelSpec.named("r9y9_v01" if old else "r9y9")
    rates = upsampling.pop("rates")
    if (gates["cond"], rates) != (mel.bins, factors(mel.hop)):
        raise WavegenError(
            f"got a WaveNet that upsamples {gates['cond']} bands by {rates}, expected {mel.bins} by "
            f"{factors(mel.hop)} for mels of the convention {mel}; name the convention it was trained on"
        )
    model = WaveNet(mel=mel, layers=layers, stacks=stacks or STACKS[layers], **upsampling, **widths, **gates)
    model.load_state_dict({**upsampled, **ends, **stack})
    version, law = "0.1" if old else "0.2", "mu-law classes" if model.law == "mulaw" else model.law
    number = model.classes if model.law == "mulaw" else model.components
    return model.eval(), (
        f"r9y9 WaveNet {version} of {layers} layers in {model.stacks} stacks, {model.residual} channels, {number} {law}"
    )


def _ends(weights: Weights) -> Part:
    """The first layer and the last two."""
    first = weights.take("first_conv.weight", None, None, 1)[:, :, 0]
    hidden = weights.take("last_conv_layers.1.weight", None, None, 1)[:, :, 0]
    (residual, inputs), (head, skip) = first.shape, hidden.shape
    out = weights.take("last_conv_layers.3.weight", None, head, 1)[:, :, 0]
    found = {
        "front": first.T.unsqueeze(0),
        "front_bias": weights.take("first_conv.bias", residual),
        "hidden.weight": hidden,
        "hidden.bias": weights.take("last_conv_layers.1.bias", head),
        "out.weight": out,
        "out.bias": weights.take("last_conv_layers.3.bias", len(out)),
    }
    return found, {"residual": residual, "skip": skip, "head": head, **_law(inputs, len(out))}


def _law(inputs: int, outputs: int) -> dict[str, Any]:
    """Classes in and out; or one number in, and two parameters of a Gaussian out or more of logistics."""
    if inputs == outputs > 1:
        return {"law": "mulaw", "classes": inputs}
    if inputs == 1 and outputs == 2:
        return {"law": "gaussians", "components": 1}
    if inputs == 1 and outputs > 3 and outputs % 3 == 0:
        return {"law": "logistics", "components": outputs // 3}
    raise WavegenError(f"got {outputs} outputs for {inputs} inputs, expected as many, or 2 or 6, 9, ... for one input")


def _stack(weights: Weights, layers: int, residual: int, skip: int, *, old: bool) -> Part:
    """The gated layers."""

    def every(name: str, *shape: int | None) -> Float[Tensor, "L ..."]:
        return weights.take_all(f"conv_layers.{{}}.{name}", layers, *shape)

    gate = every("conv.weight", None, residual, None)
    both, half = gate.shape[1], gate.shape[1] // 2
    gate_bias, cond = every("conv.bias", both), every("conv1x1c.weight", both, None, 1)[..., 0]
    if "conv_layers.0.conv1x1c.bias" in weights:
        gate_bias = gate_bias + every("conv1x1c.bias", both)
    scale = [math.sqrt(0.5) ** (layers - max(layer, 1)) if old else math.sqrt(1 / layers) for layer in range(layers)]
    scales = torch.tensor(scale).unsqueeze(1)
    skips = scales.unsqueeze(2) * every("conv1x1_skip.weight", skip, half, 1)[..., 0]
    found = {
        "stack.gate": gate.permute(0, 3, 2, 1),
        "stack.gate_bias": gate_bias.flatten(),
        "stack.cond.weight": cond.flatten(0, 1),
        "stack.residual": every("conv1x1_out.weight", residual, half, 1)[:-1, ..., 0].mT,  # the last goes nowhere
        "stack.residual_bias": every("conv1x1_out.bias", residual)[:-1],
        "stack.skip.weight": skips.transpose(0, 1).flatten(1),
        "stack.skip.bias": (scales * every("conv1x1_skip.bias", skip)).sum(0),
    }
    return found, {"gate": half, "kernel": gate.shape[3], "cond": cond.shape[2]}


def _smoothed(weights: Weights, cond: int) -> Part:
    """0.2: conv_in, then layers of one filter for all bands; those between, of odd numbers less one, repeat."""
    inward = weights.take("upsample_net.conv_in.weight", cond, cond, None)
    at = "upsample_net.upsample.up_layers."
    count = sum(name.startswith(at) for name in weights.left)
    filters = [weights.take(f"{at}{2 * i + 1}.weight", 1, 1, 1, None) for i in range(count)]
    found = {"conditioning.context.0.weight": inward, "conditioning.context.0.bias": torch.zeros(cond)}
    found |= {f"conditioning.upsample.filters.{i}": smooth[0, 0, 0] for i, smooth in enumerate(filters)}
    rates = tuple(smooth.shape[-1] // 2 for smooth in filters)
    return found, {"context": (inward.shape[-1],), "edges": "replicate", "rates": rates}


def _transposed(weights: Weights) -> Part:
    """0.1: transposed convolutions of 3 bands and s steps with stride s, at even numbers; ReLUs at the others."""
    count = sum(name.startswith("upsample_conv.") and name.endswith(".weight") for name in weights.left)
    filters = [weights.take(f"upsample_conv.{2 * i}.weight", 1, 1, 3, None) for i in range(count)]
    biases = [weights.take(f"upsample_conv.{2 * i}.bias", 1) for i in range(count)]
    found = {
        f"conditioning.upsample.filters.{i}": kernel[0, 0].flip(0) for i, kernel in enumerate(filters)
    }  # a convolution's order
    found["conditioning.upsample.bias"] = torch.cat(biases)
    rates = tuple(kernel.shape[-1] for kernel in filters)
    fields = {"upsampler": "transposed", "context": (), "log_scale_min": math.log(1e-14)}
    return found, {"rates": rates, **fields}
