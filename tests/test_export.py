"""An exported WaveGlow makes the very sound that the model makes of the same mel and noise, at any length."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import wavegen.cli
from wavegen import export_onnx
from wavegen.audio.lpc import linear_prediction
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.kernels.wavenet import filter_all_pole
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.vocoders.wavenet import WaveNet

onnx = pytest.importorskip("onnx", reason="needs the extra export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

KINDS = {
    "linear-prediction": {},
    "sound-itself": {"order": 0, "polish": 0},
    "style": {"style": 3},
    "halves-swapped": {"alternating": True, "early_every": 0, "group": 32, "context": (5, 3), "bound": None},
    "order-beyond-a-segment": {"order": 80, "mel": MelSpec(n_fft=512, win=512, hop=256, centring="middle", fmax=7600)},
    "quiet-band-of-another-mel": {
        "mel": MelSpec(centring="middle", log="log10", floor=1e-10, power=2, mean=(-4.0,) * 80, std=(2.0,) * 80),
    },
    "published": {"preset": "nvidia-256", "channels": 8, "layers": 3},
    "separable": {"preset": "squeezewave-128s", "channels": 16, "layers": 2, "flows": 4, "cond": 16},
}  # fmt: skip


def sound(model, mel, noise, style=None):
    """What the model makes of noise, unpolished, in float32."""
    with torch.no_grad():
        wav = model.decode(noise, mel, style)
    if model.order:
        a, gain = (found.numpy() for found in linear_prediction(mel, model.mel, model.order))
        wav = torch.from_numpy(filter_all_pole(wav.numpy(), a, gain, np.zeros((1, model.order)))[0])
    return wav.clamp(-1, 1)


def drawn(model, frames):
    """A mel of speech's levels that changes from frame to frame, noise, and a style if there is one."""
    generator = torch.Generator().manual_seed(frames)
    spec = model.mel
    level = spec(0.1 * torch.randn(1, (frames + 4) * spec.hop, generator=generator))[..., 2 : frames + 2]
    mel = level + 0.5 * torch.randn(level.shape, generator=generator)
    noise = 0.5 * torch.randn(1, model.group, frames * spec.hop // model.group, generator=generator)
    return mel, noise, torch.randn(1, model.style, generator=generator) if model.style else None


@pytest.fixture(params=KINDS.values(), ids=KINDS, scope="module")
def exported(request, tmp_path_factory):
    """A model with small weights everywhere, and its file."""
    torch.manual_seed(0)
    fields = {"preset": "tiny", **request.param}
    model = WaveGlow.preset(fields.pop("preset"), **fields).eval()
    for name, weight in model.named_parameters():
        weight.data += (0.02 if "steps" in name else 0.1) * torch.randn_like(weight)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(model, path)
    return model, path


def test_it_equals_torch_at_every_length(exported):
    model, path = exported
    session = onnxruntime.InferenceSession(path)
    for frames in (1, 2, 17, 60):
        mel, noise, style = drawn(model, frames)
        given = {"mel": mel, "noise": noise} | ({} if style is None else {"style": style})
        (wav,) = session.run(["wav"], {name: value.numpy() for name, value in given.items()})
        expected = sound(model, mel, noise, style).numpy()
        assert wav.shape == (1, frames * model.mel.hop) and wav.dtype == np.float32
        assert 0.01 < np.abs(expected).mean() < 0.9  # neither silence nor all of it clipped
        np.testing.assert_allclose(wav, expected, rtol=0, atol=1e-4)


def test_the_file_is_valid_and_says_what_it_is(exported):
    model, path = exported
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    facts = {item.key: item.value for item in made.metadata_props}
    assert WaveGlow.from_config(json.loads(facts["config"])).config == model.config
    assert (facts["class"], int(facts["rate"]), int(facts["hop"])) == ("WaveGlow", model.mel.rate, model.mel.hop)
    assert int(facts["opset"]) == made.opset_import[0].version
    assert "polish" in facts["left_out"]


def test_two_exports_are_the_same_bytes(exported, tmp_path):
    model, path = exported
    export_onnx(copy.deepcopy(model), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_the_model_is_left_as_it_was(lively, tmp_path):
    model = lively(WaveGlow).double().train()
    before = copy.deepcopy(model.state_dict())
    export_onnx(model, tmp_path / "model.onnx")
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_command_writes_it_and_refuses_in_one_sentence(lively, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ended = []
    for kind in (WaveGlow, WaveNet):
        lively(kind).save(f"{kind.__name__}.safetensors")
        monkeypatch.setattr(
            sys, "argv", ["wavegen", "export", f"{kind.__name__}.safetensors", "--onnx", f"{kind.__name__}.onnx"]
        )
        with pytest.raises(SystemExit) as end:
            wavegen.cli.main()
        ended.append(end.value.code)
    assert ended == [0, 2]
    onnxruntime.InferenceSession("WaveGlow.onnx")
    said = capsys.readouterr().err
    assert said.startswith("wavegen: got a WaveNet, expected a WaveGlow") and said.count("\n") == 1
    assert not Path("WaveNet.onnx").exists()


@pytest.mark.parametrize(("name", "said"), [("model.pt", "in .onnx"), ("file/model.onnx", "cannot write")])
def test_a_bad_name_is_refused_and_nothing_is_left(lively, tmp_path, name, said):
    (tmp_path / "file").touch()
    with pytest.raises(WavegenError, match=said):
        export_onnx(lively(WaveGlow), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
