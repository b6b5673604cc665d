"""NVIDIA's WaveGlow, in every layout that it was published in, to ours.

    convinv.k.conv                  the 1x1 matrix of flow k
    WN.k.start, in_layers.l, end    first layer, gates of layer l, last layer of the coupling's network
    WN.k.cond_layer                 what the mel adds to the gates of all layers; older: cond_layers.l
    WN.k.res_skip_layers.l          residual above skip, the last layer skip alone; older: res_layers.l, skip_layers.l

In the oldest models, whose classes are of a module `glow_old`, the halves of the channels take turns: in odd flows the
second half changes the first.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.flows.channels import Invertible1x1
from wavegen.interop.weights import Weights
from wavegen.nn import GatedNet
from wavegen.vocoders.waveglow import WaveGlow

__all__ = ["Net", "Published", "is_waveglow", "normalise", "waveglow"]


class Net(NamedTuple):
    """The network of one coupling: A channels in, C within, L layers of K taps, E conditioning channels."""

    start: Float[Tensor, "C A"]
    start_bias: Float[Tensor, " C"]
    gate: Float[Tensor, "L G C K"]  # G = 2 C: tanh above sigmoid
    cond: Float[Tensor, "L G E"]
    gate_bias: Float[Tensor, "L G"]  # with that of the conditioning
    residual: Float[Tensor, "l C C"]  # of all layers but the last
    residual_bias: Float[Tensor, "l C"]
    skip: Float[Tensor, "L C C"]
    skip_bias: Float[Tensor, "L C"]
    end: Float[Tensor, "B C"]  # shift above log-scale
    end_bias: Float[Tensor, " B"]


class Published(NamedTuple):
    """A WaveGlow of M mel bins in one layout, whichever it came in."""

    upsample: Float[Tensor, "M M W"]  # of a transposed convolution: in, out, taps
    upsample_bias: Float[Tensor, " M"]
    matrices: list[Float[Tensor, "C C"]]
    nets: list[Net]
    alternating: bool  # odd flows: the second half of the channels changes the first

    @property
    def group(self) -> int:
        """Samples that are folded into channels."""
        return len(self.matrices[0])

    @property
    def early(self) -> tuple[int, int]:
        """(every, size): so many channels leave after every so many flows; (flows, 0) if none do."""
        sizes = [len(matrix) for matrix in self.matrices]
        every = next((k for k, size in enumerate(sizes) if size < sizes[0]), len(sizes))
        size = sizes[0] - sizes[every] if every < len(sizes) else 0
        if sizes != [sizes[0] - k // every * size for k in range(len(sizes))] or min(sizes) < 2:
            raise WavegenError(f"got flows of {sizes} channels, expected equally many to leave at equal distances")
        return every, size


def is_waveglow(weights: Weights) -> bool:
    """Whether these are the weights of a WaveGlow of NVIDIA's."""
    return "convinv.0.conv.weight" in weights


def normalise(weights: Weights, *, alternating: bool | None = None) -> Published:
    """Take all weights of a WaveGlow.

    `alternating` says whether the halves take turns, which no weight shows; None goes by the name of the class.

    Raises:
        WavegenError: missing, more or wrongly shaped weights.
    """
    flows = weights.count("convinv")
    upsample = weights.take("upsample.weight", None, None, None)
    bins = len(upsample)
    found = Published(
        upsample=upsample,
        upsample_bias=weights.take("upsample.bias", bins),
        matrices=[_matrix(weights, f"convinv.{k}.conv.weight") for k in range(flows)],
        nets=[_net(weights, f"WN.{k}.") for k in range(flows)],
        alternating=weights.of == "glow_old.WaveGlow" if alternating is None else alternating,
    )
    weights.finish()
    for matrix, net in zip(found.matrices, found.nets, strict=True):
        if len(matrix) != 2 * net.start.shape[1]:
            raise WavegenError(f"got a coupling of {net.start.shape[1]} channels after a {len(matrix)} x {len(matrix)} "
                               "matrix, expected half as many; it is another layout")  # fmt: skip
    return found


def _matrix(weights: Weights, name: str) -> Tensor:
    matrix = weights.take(name, None, None, 1)[:, :, 0]
    if matrix.shape[0] != matrix.shape[1]:
        raise WavegenError(f"got {name!r} of shape {tuple(matrix.shape)}, expected a square matrix; it is not complete")
    return matrix


def _net(weights: Weights, at: str) -> Net:
    layers = weights.count(f"{at}in_layers")
    start = weights.take(f"{at}start.weight", None, None, 1)[..., 0]
    channels, inputs = start.shape
    gate = weights.take_all(f"{at}in_layers.{{}}.weight", layers, 2 * channels, channels, None)
    gate_bias = weights.take_all(f"{at}in_layers.{{}}.bias", layers, 2 * channels)
    cond, cond_bias = _cond(weights, at, layers, 2 * channels)
    (residual, residual_bias), (skip, skip_bias) = _onward(weights, at, layers, channels)
    return Net(
        start=start,
        start_bias=weights.take(f"{at}start.bias", channels),
        gate=gate,
        cond=cond,
        gate_bias=gate_bias + cond_bias,
        residual=residual,
        residual_bias=residual_bias,
        skip=skip,
        skip_bias=skip_bias,
        end=weights.take(f"{at}end.weight", 2 * inputs, channels, 1)[..., 0],
        end_bias=weights.take(f"{at}end.bias", 2 * inputs),
    )


Pair = tuple[Float[Tensor, "_L _O _I"], Float[Tensor, "_L _O"]]  # weights and biases of L layers


def _cond(weights: Weights, at: str, layers: int, gates: int) -> Pair:
    """What the mel adds to the gates."""
    if f"{at}cond_layer.weight" not in weights:
        return _pair(weights, f"{at}cond_layers", layers, gates, None)
    weight = weights.take(f"{at}cond_layer.weight", layers * gates, None, 1)[..., 0]
    return weight.unflatten(0, (layers, gates)), weights.take(f"{at}cond_layer.bias", layers * gates).view(layers, -1)


def _onward(weights: Weights, at: str, layers: int, channels: int) -> tuple[Pair, Pair]:
    """Residual connections of all layers but the last, and skip connections of all."""
    if f"{at}res_skip_layers.0.weight" not in weights:
        residual = _pair(weights, f"{at}res_layers", layers - 1, channels, channels)
        return residual, _pair(weights, f"{at}skip_layers", layers, channels, channels)
    both, bias = _pair(weights, f"{at}res_skip_layers", layers - 1, 2 * channels, channels)
    last = weights.take(f"{at}res_skip_layers.{layers - 1}.weight", channels, channels, 1)[..., 0]
    last_bias = weights.take(f"{at}res_skip_layers.{layers - 1}.bias", channels)
    skip = torch.cat([both[:, channels:], last.unsqueeze(0)])
    return (both[:, :channels], bias[:, :channels]), (skip, torch.cat([bias[:, channels:], last_bias.unsqueeze(0)]))


def _pair(weights: Weights, name: str, layers: int, outputs: int, inputs: int | None) -> Pair:
    weight = weights.take_all(f"{name}.{{}}.weight", layers, outputs, inputs, 1)[..., 0]
    return weight, weights.take_all(f"{name}.{{}}.bias", layers, outputs)


def waveglow(weights: Weights, *, mel: MelSpec | None = None, alternating: bool | None = None) -> tuple[WaveGlow, str]:
    """The WaveGlow of these weights, all of which are taken, and what was found; see `normalise`.

    Raises:
        WavegenError: another layout, a singular matrix, or a mel that does not fit.
    """
    found = normalise(weights, alternating=alternating)
    mel = mel or MelSpec.named("tacotron2")
    bins, _, taps = found.upsample.shape
    first, (every, size) = found.nets[0], found.early
    layers, gates, _, kernel = first.gate.shape
    if (*found.upsample.shape, first.cond.shape[2]) != (mel.bins, mel.bins, 4 * mel.hop, mel.bins * found.group):
        raise WavegenError(
            f"got a WaveGlow for {bins} bands, {taps // 4} samples apart, expected {mel.bins} bands, {mel.hop} apart, "
            f"as in mels of the convention {mel}; name the convention it was trained on"
        )
    model = WaveGlow(
        mel=mel, group=found.group, flows=len(found.nets), early_every=every, early_size=size, layers=layers,
        channels=gates // 2, kernel=kernel, cond=bins * found.group, alternating=found.alternating,
    )  # fmt: skip
    model.upsample.upsample.load_state_dict({"weight": found.upsample, "bias": found.upsample_bias})
    mixes = [part for part in model.modules() if isinstance(part, Invertible1x1)]
    for k, (mix, matrix) in enumerate(zip(mixes, found.matrices, strict=True)):
        if found.alternating and k % 2:
            matrix = matrix.roll(len(matrix) // 2, 0)  # what ours changes comes second; it swaps them back
        mix.load_state_dict(Invertible1x1(len(matrix), matrix=matrix).state_dict())
    nets = [part for part in model.modules() if isinstance(part, GatedNet)]
    for net, published in zip(nets, found.nets, strict=True):
        net.load_state_dict(_gated(published))
    turns = ", whose halves take turns" if found.alternating else ""
    return model.eval(), f"NVIDIA WaveGlow of {len(nets)} flows of {layers} layers of {gates // 2} channels{turns}"


def _gated(net: Net) -> dict[str, Tensor]:
    """Weights of a `GatedNet`, which scales the residual sum of each layer by sqrt(1/2), as NVIDIA's does not."""
    layers = len(net.gate)
    grown = 2 ** (torch.arange(layers) / 2)  # times our h is theirs at each layer
    return {
        "start.weight": net.start,
        "start.bias": net.start_bias,
        "stack.gate": net.gate.permute(0, 3, 2, 1) * grown.view(-1, 1, 1, 1),
        "stack.gate_bias": net.gate_bias.flatten(),
        "stack.cond.weight": net.cond.flatten(0, 1),
        "stack.residual": net.residual.mT / grown[:-1].view(-1, 1, 1),
        "stack.residual_bias": net.residual_bias / grown[:-1].view(-1, 1),
        "stack.skip.weight": net.skip.transpose(0, 1).flatten(1),
        "stack.skip.bias": net.skip_bias.sum(0),
        "end.weight": net.end,
        "end.bias": net.end_bias,
    }
