"""Published layouts, with weights drawn here, give what the published equations give.

The equations are written out below in plain functional torch, from the descriptions of the two systems: r9y9's WaveNet
(github.com/r9y9/wavenet_vocoder) and NVIDIA's WaveGlow (Prenger et al., 2019).
"""

import math
import sys
import types
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

import wavegen.cli
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.interop import import_checkpoint
from wavegen.model import read_header
from wavegen.vocoders.base import Vocoder
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.vocoders.wavenet import WaveNet

FRAMES = 6


class Drawn(dict):
    """Weights in a published layout; what is added is returned as the equations use it."""

    def plain(self, name, *shape, scale=None):
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
        self[name] = torch.randn(shape) * (fan_in**-0.5 if scale is None else scale)
        return self[name]

    def normed(self, name, *shape):
        """A weight in the two parts of weight normalisation, with one magnitude for each output."""
        direction = self.plain(f"{name}.weight_v", *shape, scale=1.0)
        length = direction.flatten(1).norm(dim=1).view(-1, *[1] * (len(shape) - 1))
        self[f"{name}.weight_g"] = (0.5 + torch.rand_like(length)) * (2 if shape[1] > 2 else 1) / math.sqrt(2)
        return self[f"{name}.weight_g"] * direction / length

    def conv(self, name, *shape, bias=True):
        return self.normed(name, *shape), self.plain(f"{name}.bias", shape[0], scale=0.3) if bias else None


# --- r9y9's WaveNet ---


def r9y9_weights(version, *, inputs, outputs, layers, residual=8, gates=8, skip=12, bins=80):
    """A state dict, and the weights by the names of the equations."""
    torch.manual_seed(0)
    drawn = Drawn()
    net = {"first": drawn.conv("first_conv", residual, inputs, 1), "layers": []}
    for layer in range(layers):
        at = f"conv_layers.{layer}."
        net["layers"].append(
            {
                "conv": drawn.conv(f"{at}conv", 2 * gates, residual, 3),
                "cond": drawn.conv(f"{at}conv1x1c", 2 * gates, bins, 1, bias=version == "0.1"),
                "out": drawn.conv(f"{at}conv1x1_out", residual, gates, 1),
                "skip": drawn.conv(f"{at}conv1x1_skip", skip, gates, 1),
            }
        )
    net["last"] = [
        drawn.conv("last_conv_layers.1", skip, skip, 1),
        drawn.conv("last_conv_layers.3", outputs, skip, 1),
    ]
    if version == "0.1":
        net["up"] = [
            (
                drawn.normed(f"upsample_conv.{2 * i}", 1, 1, 3, 4),
                drawn.plain(f"upsample_conv.{2 * i}.bias", 1, scale=0.1),
            )
            for i in range(4)
        ]
    else:
        net["in"] = drawn.plain("upsample_net.conv_in.weight", bins, bins, 5)
        net["up"] = [drawn.normed(f"upsample_net.upsample.up_layers.{2 * i + 1}", 1, 1, 1, 9) for i in range(4)]
    return OrderedDict(drawn), net


def r9y9_conditioning(version, net, mel):
    if version == "0.1":
        c = mel.unsqueeze(1)
        for weight, bias in net["up"]:
            c = functional.conv_transpose2d(c, weight, bias, stride=(1, 4), padding=(1, 0)).relu()
        return c.squeeze(1)
    c = functional.conv1d(functional.pad(mel, (2, 2), mode="replicate"), net["in"]).unsqueeze(1)
    for weight in net["up"]:
        c = functional.interpolate(c, scale_factor=(1, 4), mode="nearest")
        c = functional.conv2d(c, weight, padding=(0, 4))
    return c.squeeze(1)


def r9y9_logits(version, net, x, mel, stacks):
    """Parameters of every next sample: x (B, inputs, T) and mel (B, M, F) to (B, outputs, T)."""
    c, layers = r9y9_conditioning(version, net, mel), len(net["layers"])
    h, skips = functional.conv1d(x, *net["first"]), None
    for number, layer in enumerate(net["layers"]):
        dilation = 2 ** (number % (layers // stacks))
        z = functional.conv1d(functional.pad(h, (2 * dilation, 0)), *layer["conv"], dilation=dilation)
        a, b = (z + functional.conv1d(c, *layer["cond"])).chunk(2, dim=1)
        y = a.tanh() * b.sigmoid()
        s = functional.conv1d(y, *layer["skip"])
        h = (functional.conv1d(y, *layer["out"]) + h) * math.sqrt(0.5)
        if version == "0.1":
            skips = s if skips is None else (skips + s) * math.sqrt(0.5)
        else:
            skips = s if skips is None else skips + s
    y = skips if version == "0.1" else skips * math.sqrt(1 / layers)
    for weight, bias in net["last"]:
        y = functional.conv1d(y.relu(), weight, bias)
    return y


LAWS = {
    "mulaw": {"inputs": 256, "outputs": 256, "layers": 30},
    "logistics": {"inputs": 1, "outputs": 30, "layers": 24},
    "gaussians": {"inputs": 1, "outputs": 2, "layers": 24},
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_r9y9s_wavenet_says_the_same(version, law, tmp_path):
    weights, net = r9y9_weights(version, **LAWS[law])
    torch.save({"state_dict": weights, "optimizer": None, "global_step": 1000}, tmp_path / "r9y9.pth")
    model, found = import_checkpoint(tmp_path / "r9y9.pth")
    assert isinstance(model, WaveNet) and version in found and str(LAWS[law]["layers"]) in found
    assert model.law == law and max(model.dilations) == (512 if law == "mulaw" else 32)
    u = 0.5 * torch.randn(2, FRAMES * 256).clamp(-1, 1)
    mel = torch.rand(2, 80, FRAMES)
    past = functional.pad(u[:, :-1], (1, 0))  # the sample before the first is silence
    x = past.unsqueeze(1)
    if law == "mulaw":
        x = functional.one_hot(model.sample_law.encode(past), 256).float().mT
    theirs = r9y9_logits(version, net, x, mel, model.stacks)
    with torch.no_grad():
        ours, _ = model.parameters_of(u, mel)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours[:, :, 0].permute(1, 2, 0), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_an_imported_wavenet_speaks_and_streams(version, tmp_path):
    weights, _ = r9y9_weights(version, **LAWS["gaussians"])
    torch.save(weights, tmp_path / "r9y9.pth")
    model, _ = import_checkpoint(tmp_path / "r9y9.pth")
    model.out.bias.data[1] = -5
    mel = torch.rand(1, 80, 20)
    wav = model.synthesize(mel, seed=0)
    assert wav.shape == (1, 20 * 256) and wav.std() > 1e-3
    streamed = torch.cat(list(model.stream(mel[0].split([3, 10, 7], dim=-1), seed=0)))
    torch.testing.assert_close(streamed, wav[0], rtol=0, atol=1e-4)


def test_the_mel_of_the_first_wavenets_is_in_twentieths_of_a_decibel_from_minus_80():
    """20 log10 of the amplitude, less 20, from -100 to 0 mapped to 0 to 1."""
    wav = 0.3 * torch.randn(1, 4000) * torch.linspace(0, 1, 4000) ** 4
    level = 20 * MelSpec.named("tacotron2")(wav).exp().log10()
    first = replace(MelSpec.named("r9y9_v01"), fmin=0.0, fmax=8000.0)
    torch.testing.assert_close(first(wav), ((level.clamp(min=-80) - 20 + 100) / 100), rtol=0, atol=1e-4)


# --- NVIDIA's WaveGlow ---

FLOWS, GROUP, CHANNELS, LAYERS = 12, 8, 16, 3
LAYOUTS = {
    "fused": ("cond_layer", "res_skip_layers"),
    "conditioning by layers": ("cond_layers", "res_skip_layers"),
    "all by layers": ("cond_layers", "res_layers"),
}


def waveglow_weights(layout, *, flows=FLOWS, channels=CHANNELS, layers=LAYERS):
    """A state dict in a layout, and the weights by the names of the equations: the same for all layouts."""
    torch.manual_seed(0)
    drawn, net = Drawn(), {"flows": []}
    net["upsample"] = drawn.plain("upsample.weight", 80, 80, 1024, scale=0.05), drawn.plain("upsample.bias", 80)
    size = GROUP
    for k in range(flows):
        size -= 2 if k % 4 == 0 and k else 0
        matrix = torch.linalg.qr(torch.randn(size, size))[0] * (0.8 + 0.4 * torch.rand(size, 1))
        drawn[f"convinv.{k}.conv.weight"] = matrix.unsqueeze(-1)
        at = f"WN.{k}."
        wn = {"matrix": matrix, "start": drawn.conv(f"{at}start", channels, size // 2, 1), "layers": []}
        end = drawn.plain(f"{at}end.weight", size, channels, 1, scale=0.3 * channels**-0.5)
        wn["end"] = end, drawn.plain(f"{at}end.bias", size, scale=0.1)
        for i in range(layers):
            both = 1 if i == layers - 1 else 2
            wn["layers"].append(
                {
                    "in": drawn.conv(f"{at}in_layers.{i}", 2 * channels, channels, 3),
                    "cond": drawn.conv(f"{at}cond_layers.{i}", 2 * channels, 80 * GROUP, 1),
                    "res_skip": drawn.conv(f"{at}res_skip_layers.{i}", both * channels, channels, 1),
                }
            )
        net["flows"].append(wn)
        _relaid(drawn, at, LAYOUTS[layout], channels, layers)
    return OrderedDict(drawn), net


def _relaid(drawn, at, layout, channels, layers):
    """From one layer each for conditioning and one for residual and skip together, to another layout."""
    parts = ("weight_g", "weight_v", "bias")
    if layout[0] == "cond_layer":
        for part in parts:
            drawn[f"{at}cond_layer.{part}"] = torch.cat(
                [drawn.pop(f"{at}cond_layers.{i}.{part}") for i in range(layers)]
            )
    if layout[1] == "res_layers":
        for i in range(layers):
            for part in parts:
                both = drawn.pop(f"{at}res_skip_layers.{i}.{part}")
                drawn[f"{at}skip_layers.{i}.{part}"] = both[-channels:]
                if i < layers - 1:
                    drawn[f"{at}res_layers.{i}.{part}"] = both[:channels]


def waveglow_cond(net, mel):
    bands = functional.conv_transpose1d(mel, *net["upsample"], stride=256)[..., : mel.shape[-1] * 256]
    groups = bands.unfold(2, GROUP, GROUP)  # (B, 80, N, 8)
    return groups.permute(0, 1, 3, 2).flatten(1, 2)  # band by band, the samples of a group


def waveglow_wn(wn, audio, cond):
    h, total = functional.conv1d(audio, *wn["start"]), 0
    channels = h.shape[1]
    for i, layer in enumerate(wn["layers"]):
        z = functional.conv1d(h, *layer["in"], dilation=2**i, padding=2**i) + functional.conv1d(cond, *layer["cond"])
        y = functional.conv1d(z[:, :channels].tanh() * z[:, channels:].sigmoid(), *layer["res_skip"])
        if i < len(wn["layers"]) - 1:
            h, total = h + y[:, :channels], total + y[:, channels:]
        else:
            total = total + y
    return functional.conv1d(total, *wn["end"]).chunk(2, dim=1)  # shift, log-scale


def waveglow_forward(net, wav, mel, *, alternating=False):
    """Sound (B, T) to noise (B, 8, T / 8) and the log-determinant of each item."""
    audio, cond, left = wav.unfold(1, GROUP, GROUP).mT, waveglow_cond(net, mel), []
    logdet = torch.zeros(len(wav))
    for k, wn in enumerate(net["flows"]):
        if k % 4 == 0 and k:
            left.append(audio[:, :2])
            audio = audio[:, 2:]
        audio = wn["matrix"] @ audio
        logdet = logdet + torch.linalg.slogdet(wn["matrix"])[1] * audio.shape[-1]
        a, b = audio.chunk(2, dim=1)
        if alternating and k % 2:
            a, b = b, a
        shift, log_scale = waveglow_wn(wn, a, cond)
        b = log_scale.exp() * b + shift
        logdet = logdet + log_scale.flatten(1).sum(1)
        audio = torch.cat([b, a] if alternating and k % 2 else [a, b], dim=1)
    return torch.cat([*left, audio], dim=1), logdet


def waveglow_inverse(net, z, mel, *, alternating=False):
    """Noise to sound."""
    cond = waveglow_cond(net, mel)
    leavings = (len(net["flows"]) - 1) // 4
    audio = z[:, 2 * leavings :]
    for k in reversed(range(len(net["flows"]))):
        wn = net["flows"][k]
        a, b = audio.chunk(2, dim=1)
        if alternating and k % 2:
            a, b = b, a
        shift, log_scale = waveglow_wn(wn, a, cond)
        b = (b - shift) / log_scale.exp()
        audio = torch.linalg.inv(wn["matrix"]) @ torch.cat([b, a] if alternating and k % 2 else [a, b], dim=1)
        if k % 4 == 0 and k:
            leavings -= 1
            audio = torch.cat([z[:, 2 * leavings : 2 * leavings + 2], audio], dim=1)
    return audio.mT.flatten(1)


def assert_same_waveglow(model, net, *, alternating=False):
    torch.manual_seed(1)
    wav, mel = 0.3 * torch.randn(2, FRAMES * 256), torch.randn(2, 80, FRAMES)
    z, logdet = waveglow_forward(net, wav, mel, alternating=alternating)
    assert (z - wav.unfold(1, GROUP, GROUP).mT).abs().max() > 0.1
    with torch.no_grad():
        ours, our_logdet = model.encode(wav, mel)
        back, sound = model.decode(z, mel), model.decode(0.6 * torch.randn_like(z), mel)
    torch.manual_seed(1)
    torch.randn(2, FRAMES * 256), torch.randn(2, 80, FRAMES)
    theirs = waveglow_inverse(net, 0.6 * torch.randn_like(z), mel, alternating=alternating)
    torch.testing.assert_close(ours, z, rtol=0, atol=1e-4)
    torch.testing.assert_close(our_logdet / wav.shape[1], logdet / wav.shape[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(back, wav, rtol=0, atol=1e-4)
    torch.testing.assert_close(sound, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alternating", [False, True], ids=["", "alternating"])
def test_nvidias_waveglow_gives_the_same(layout, alternating, tmp_path):
    weights, net = waveglow_weights(layout)
    weights = {f"module.{name}": value for name, value in weights.items()}  # as trained on several GPUs
    torch.save({"state_dict": weights, "epoch": 3, "config": {"n_flows": 12}}, tmp_path / "waveglow.pt")
    model, found = import_checkpoint(tmp_path / "waveglow.pt", alternating=alternating)
    assert "WaveGlow" in found and f"{CHANNELS} channels" in found
    assert isinstance(model, WaveGlow) and model.alternating == alternating
    assert model.config == WaveGlow(channels=CHANNELS, layers=LAYERS, alternating=alternating).config
    assert_same_waveglow(model, net, alternating=alternating)


class Shared:
    """Stands in for what every module of torch before 1.4 points to."""

    def __reduce__(self):
        return sys.modules["torch.nn.backends.thnn"]._get_thnn_function_backend, ()


def whole(weights, source, monkeypatch):
    """The weights in modules whose classes are of a Python module that only this process has, and only for now."""
    foreign = types.ModuleType(source)
    for name in ("WaveGlow", "WN", "Invertible1x1Conv"):
        setattr(foreign, name, type(name, (nn.Module,), {"__module__": source}))
    backend = types.ModuleType("torch.nn.backends.thnn")

    def found():
        """What a pickle names as a function of that module."""

    found.__module__, found.__qualname__ = backend.__name__, "_get_thnn_function_backend"
    backend._get_thnn_function_backend = found
    monkeypatch.setitem(sys.modules, source, foreign)
    monkeypatch.setitem(sys.modules, "torch.nn.backends.thnn", backend)

    def conv(name):
        shape = weights[f"{name}.weight_v"].shape
        return nn.utils.weight_norm(nn.Conv1d(shape[1], shape[0], shape[2]))

    model = foreign.WaveGlow()
    model.upsample, model._backend, model.n_group = nn.ConvTranspose1d(80, 80, 1024, stride=256), Shared(), GROUP
    model.WN, model.convinv = nn.ModuleList(), nn.ModuleList()
    for k in range(sum(name.startswith("convinv.") for name in weights)):
        size = len(weights[f"convinv.{k}.conv.weight"])
        mix, wn = foreign.Invertible1x1Conv(), foreign.WN()
        mix.conv, mix.W_inverse = nn.Conv1d(size, size, 1, bias=False), torch.ones(size, size)
        names = {name.split(".")[2] for name in weights if name.startswith(f"WN.{k}.")}
        for name in sorted(names):
            layers = {key.split(".")[3] for key in weights if key.startswith(f"WN.{k}.{name}.")}
            if name == "end":
                wn.end = nn.Conv1d(CHANNELS, size, 1)
            elif "bias" in layers:
                setattr(wn, name, conv(f"WN.{k}.{name}"))
            else:
                setattr(wn, name, nn.ModuleList(conv(f"WN.{k}.{name}.{i}") for i in range(len(layers))))
        model.convinv.append(mix)
        model.WN.append(wn)
    model.load_state_dict(weights)
    return model


@pytest.mark.filterwarnings("ignore")  # weight norm of old, and source code that torch cannot find
@pytest.mark.parametrize("settings", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("source", "layout"), [("glow", "fused"), ("glow", "all by layers"), ("glow_old", "conditioning by layers")]
)
def test_whole_modules_are_read_without_their_classes(source, layout, settings, monkeypatch, tmp_path):
    weights, net = waveglow_weights(layout, flows=6, layers=2)
    with monkeypatch.context() as patched:
        tree = {"model": whole(weights, source, patched), "iteration": 580000, "optimizer": {}, "learning_rate": 1e-4}
        torch.save(tree, tmp_path / "waveglow.pt", **settings)
    assert source not in sys.modules
    with pytest.raises(Exception, match=source):  # torch itself would need them
        torch.load(tmp_path / "waveglow.pt", weights_only=False)
    model, _ = import_checkpoint(tmp_path / "waveglow.pt")
    assert source not in sys.modules and model.alternating == (source == "glow_old")
    assert_same_waveglow(model, net, alternating=model.alternating)


def test_weight_norm_of_new_is_folded_too(tmp_path):
    weights, net = waveglow_weights("fused", flows=2, layers=2)
    ends = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {
        name.removesuffix(old) + ends.get(old, old): w for name, w in weights.items() for old in [name.rsplit(".")[-1]]
    }
    torch.save(renamed, tmp_path / "waveglow.pt")
    assert_same_waveglow(import_checkpoint(tmp_path / "waveglow.pt")[0], net)


def changed(weights, name, value):
    """A copy with another weight, or without it."""
    return {key: w for key, w in {**weights, name: value}.items() if w is not None}


def wrong():
    """What is wrong, the layout's name, a changed weight, and words of the refusal."""
    nan, singular = torch.full((8,), torch.nan), torch.ones(8, 8, 1)
    return {
        "a weight missing": ("r9y9", "conv_layers.3.conv1x1_skip.bias", None, "found no weight"),
        "a layer missing": ("r9y9", "conv_layers.30.conv.bias", torch.zeros(16), "without gaps"),
        "one too many": ("r9y9", "embed_speakers.weight", torch.zeros(7, 16), "'embed_speakers.weight'"),
        "another shape": ("r9y9", "conv_layers.3.conv.bias", torch.zeros(5), r"expected \(16\)"),
        "not finite": ("r9y9", "first_conv.bias", nan, "not finite"),
        "whole numbers": ("r9y9", "first_conv.bias", torch.zeros(8, dtype=torch.int64), "not finite"),
        "a layer at another place": (
            "r9y9", "upsample_net.upsample.up_layers.8.weight", torch.zeros(1, 1, 1, 9), "no weight.*up_layers.9"),
        "a magnitude of another shape": ("r9y9", "conv_layers.0.conv.weight_g", torch.ones(2, 1, 1), "one magnitude"),
        "more outputs than classes": ("r9y9", "last_conv_layers.3.bias", torch.zeros(255), r"expected \(30\)"),
        "singular": ("glow", "convinv.0.conv.weight", singular, "singular"),
        "flows of odd sizes": ("glow", "convinv.1.conv.weight", torch.eye(6).unsqueeze(-1), "half as many|equally"),
        "another hop": ("glow", "upsample.weight", torch.zeros(80, 80, 1200), "300"),
        "no square": ("glow", "convinv.0.conv.weight", torch.ones(8, 6, 1), "square"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def published():
    return {
        "r9y9": r9y9_weights("0.2", **LAWS["logistics"])[0],
        "glow": waveglow_weights("fused", flows=2, layers=2)[0],
    }


@pytest.mark.parametrize("case", wrong())
def test_weights_of_another_layout_are_refused_by_name(case, published, tmp_path):
    layout, name, value, words = wrong()[case]
    torch.save(changed(published[layout], name, value), tmp_path / "bad.pt")
    with pytest.raises(WavegenError, match=f"bad.pt.*({words})"):
        import_checkpoint(tmp_path / "bad.pt")


OTHERS = {
    "another model": {"encoder.weight": torch.zeros(3)},
    "no weights": {"epoch": 3},
    "a list": [torch.zeros(3)],
    "a number": 5,
    "weights that are none": {"state_dict": {"first_conv.weight": 3}},
    "scalars": {"first_conv.weight": torch.tensor(1.0), "last_conv_layers.1.weight": torch.tensor(1.0)},
    "empty": {"convinv.0.conv.weight": torch.zeros(0, 0, 1)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_published_model_is_refused(case, tmp_path):
    torch.save(OTHERS[case], tmp_path / "bad.pt")
    with pytest.raises(WavegenError, match="bad.pt"):
        import_checkpoint(tmp_path / "bad.pt")


def test_modules_within_themselves_are_not_walked_for_ever(monkeypatch, tmp_path):
    ring, ladder = nn.Module(), nn.Module()
    ring._modules["again"] = ring
    last = ladder
    for _ in range(60):  # two ways at each of 60 steps
        last._modules["left"] = last._modules["right"] = last = nn.Module()
    for tree in (ring, ladder):
        torch.save(tree, tmp_path / "bad.pt")
        with pytest.raises(WavegenError, match="a module, once"):
            import_checkpoint(tmp_path / "bad.pt")


def test_stacks_that_no_weight_shows_are_asked_for(tmp_path):
    weights, _ = r9y9_weights("0.2", inputs=1, outputs=2, layers=12)
    torch.save(weights, tmp_path / "r9y9.pth")
    with pytest.raises(WavegenError, match="12 layers.*stacks"):
        import_checkpoint(tmp_path / "r9y9.pth")
    model, _ = import_checkpoint(tmp_path / "r9y9.pth", stacks=3)
    assert model.dilations == (1, 2, 4, 8) * 3
    with pytest.raises(WavegenError, match="whole stacks"):
        import_checkpoint(tmp_path / "r9y9.pth", stacks=5)


# --- the command ---


def called(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["wavegen", *line.split()])
    try:
        wavegen.cli.main()
    except SystemExit as end:
        return end.code
    return 0


def test_wavegen_import_writes_a_model_file_and_says_what_it_found(published, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, weights in published.items():
        torch.save(weights, f"{name}.pt")
        assert called(f"import {name}.pt -o {name}.safetensors", monkeypatch) == 0
        line = capsys.readouterr().out
        assert line.count("\n") == 1
        found, _, convention = line.strip().partition("; mels of the convention ")
        model = Vocoder.load(f"{name}.safetensors")
        assert convention == str(model.mel) and read_header(f"{name}.safetensors")["notes"] == {"imported": found}
        again, _ = import_checkpoint(f"{name}.pt")
        for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)
    assert called("import r9y9.pt -o own.safetensors --convention parallel_wavegan", monkeypatch) == 0
    assert WaveNet.load("own.safetensors").mel == MelSpec.named("parallel_wavegan")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import missing.pt -o out.safetensors", "no checkpoint at"),
        ("import bad.pt -o out.safetensors", "bad.pt"),
        ("import glow.pt -o out.pt", "ends in .safetensors"),
        ("import glow.pt -o out.safetensors --convention nobodys", "nobodys"),
        ("import glow.pt -o out.safetensors --convention vocos", "100 bands"),
        ("import glow.pt -o glow.pt/out.safetensors", "cannot write"),
    ],
)
def test_what_can_go_wrong_is_one_sentence_and_leaves_nothing(line, words, published, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save(published["glow"], "glow.pt")
    (tmp_path / "bad.pt").write_bytes((tmp_path / "glow.pt").read_bytes()[:-1000])
    assert called(line, monkeypatch) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"glow.pt", "bad.pt"}
