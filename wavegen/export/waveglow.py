"""A WaveGlow as an ONNX file."""

import copy
import json
from itertools import count
from pathlib import Path
from typing import Any

import torch

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError
from wavegen.export.graph import Graph, ints
from wavegen.export.layers import emit
from wavegen.export.lpc import coloured
from wavegen.model import Model
from wavegen.vocoders.waveglow import WaveGlow

__all__ = ["export_onnx"]

OPSET, IR = 18, 8  # of late 2022, which engines read
LARGEST = 2**31 - 2**20  # bytes of weights in a file of protocol buffers, with some left for the graph


def export_onnx(model: Model, path: Path | str) -> None:
    """Write a WaveGlow as an ONNX file with float32 weights, whose metadata say what mels it expects.

    Inputs: "mel" (1, bins, F); "noise" (1, group, F * hop / group), standard normal times the temperature; "style"
    (1, D) where the model has one. F is any number of frames. Output: "wav" (1, F * hop) in [-1, 1], what the model
    makes of that noise before polishing, which is left out.

    Raises:
        WavegenError: not a WaveGlow, too large for one file, not a name in .onnx, or no package onnx.
    """
    if not isinstance(model, WaveGlow):
        raise WavegenError(f"got a {type(model).__name__}, expected a WaveGlow; no other model is exported")
    if Path(path).suffix != ".onnx":
        raise WavegenError(f"cannot write an ONNX file to {path}: expected a name that ends in .onnx; rename it")
    if (size := 4 * sum(weight.numel() for weight in model.parameters())) > LARGEST:
        raise WavegenError(f"got {size / 2**30:.1f} GB of weights, expected under 2, the most that an ONNX file holds")
    try:
        import onnx
    except ImportError as error:
        raise WavegenError('the package onnx is not installed; run `pip install "wavegen[export]"`') from error
    made = _written(copy.deepcopy(model).cpu().float())
    with write_aside(path) as aside:
        onnx.save(made, aside)


@torch.no_grad()
def _written(model: WaveGlow) -> Any:
    """The model as ONNX's."""
    from onnx import helper

    spec, graph = model.mel, Graph(count())
    cond = emit(model.upsample, graph, graph("Div", graph("Sub", "mel", model.mel_mean), model.mel_std))
    if model.style_layer is not None:
        cond = graph("Add", cond, graph.linear(graph("Unsqueeze", "style", ints(2)), model.style_layer.weight))
    wav = graph("Reshape", graph("Transpose", emit(model.flow, graph, "noise", cond), perm=[0, 2, 1]), ints(1, -1))
    if model.order:
        wav = coloured(graph, wav, spec, model.order)
    graph("Clip", wav, -1.0, 1.0, name="wav")
    shapes = {"mel": [1, spec.bins, "F"], "noise": [1, model.group, f"{spec.hop // model.group} * F"]}
    if model.style:
        shapes["style"] = [1, model.style]
    whole = graph.finished("WaveGlow", shapes, {"wav": [1, f"{spec.hop} * F"]})
    made = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(made, _metadata(model))
    return made


def _metadata(model: WaveGlow) -> dict[str, str]:
    facts = {
        "class": type(model).__name__,
        "config": json.dumps(model.config),
        "rate": model.mel.rate,
        "hop": model.mel.hop,
        "group": model.group,
        "temperature": model.temperature,
        "opset": OPSET,
        "left_out": f"polish: {model.polish} projections, Griffin-Lim's, that bring the sound closer to its mel",
    }
    return {name: str(fact) for name, fact in facts.items()}
