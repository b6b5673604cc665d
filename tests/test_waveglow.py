"""Laws of WaveGlow: exact inverse and density at full depth, chunks that equal the whole, steps that stay finite."""

import math

import pytest
import torch

from wavegen.audio.lpc import excitation
from wavegen.audio.mel import MelSpec
from wavegen.bench import plain_decode
from wavegen.errors import WavegenError
from wavegen.vocoders.base import STEP
from wavegen.vocoders.pieces import Draw
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.voices import load_voice

SPEC = MelSpec(rate=8000, n_fft=128, hop=32, win=128, bins=12, fmax=4000, centring="middle")
SHAPES = {
    "early outputs": {"group": 16, "early_every": 2, "early_size": 4},
    "no early outputs": {"group": 8, "early_every": 0},
    "style": {"group": 8, "early_every": 0, "style": 3},
    "separable": {"group": 32, "early_every": 2, "early_size": 8, "separable": True, "dilation": 1},
    "transposed": {"group": 8, "upsampler": "transposed", "cond": 96, "context": (), "bound": None, "early_every": 0},
    "alternating": {"group": 8, "early_every": 2, "early_size": 2, "alternating": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
PUBLISHED = {"channels": 24, "mel": SPEC, "cond": 12 * 8}  # all 12 flows of 8 layers, narrow


@pytest.fixture
def moderate():
    """Makes a WaveGlow with weights everywhere and scales such as training gives, not e to the 3."""

    def build(preset, **changes):
        torch.manual_seed(0)
        net = WaveGlow.preset(preset, **changes).eval()
        for name, weight in net.named_parameters():
            if not name.endswith(("lower", "upper")):  # rotations as they are, not yet mixed
                weight.data += 0.01 * torch.randn_like(weight)
        return net

    return build


@pytest.fixture
def small(lively):
    """Makes a WaveGlow over short frames of sound itself, that says what its flow says."""

    def build(**changes):
        return lively(WaveGlow, **{"mel": SPEC, "polish": 0, "order": 0, "mel_mean": -4.0, "mel_std": 1.0, **changes})

    return build


def sound(net, frames, batch=1, dtype=torch.float32):
    """Sound, its mel, and styles if the network has some."""
    generator = torch.Generator().manual_seed(1)
    wav = torch.randn(batch, frames * net.mel.hop, generator=generator) * 0.1
    style = torch.randn(batch, net.style, generator=generator).to(dtype) if net.style else None
    return wav.to(dtype), net.mel(wav)[..., :frames].to(dtype), style


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["64", "32"])
@pytest.mark.parametrize("preset", ["edge", "nvidia-256", "squeezewave-128s", "squeezewave-64s"])
def test_the_inverse_is_exact_at_full_depth(moderate, preset, dtype, bound):
    changes = {"nvidia-256": PUBLISHED, "edge": {}}.get(preset, {"channels": 24, "cond": 24})
    net = moderate(preset, **changes).to(dtype)
    wav, mel, style = sound(net, 40, 2, dtype)
    z, logdet = net.encode(wav, mel, style)
    assert (logdet / wav.shape[1]).abs().min() > 1e-3  # it does something
    assert (net.decode(z, mel, style) - wav).abs().max() < bound


@torch.no_grad()
def test_the_voice_that_ships_is_inverted():
    net = load_voice("kathleen-waveglow")
    wav, mel, _ = sound(net, 60)
    u, _ = excitation(wav, mel, net.mel, net.order)
    z, _ = net.encode(u, mel)
    assert (net.decode(z, mel) - u).abs().max() < 1e-4


@shapes
def test_the_log_determinant_is_that_of_the_jacobian(small, shape):
    net = small(**shape).double()
    wav, mel, style = sound(net, 3, 2, torch.float64)
    _, logdet = net.encode(wav, mel, style)
    for b in range(2):
        one = None if style is None else style[b : b + 1]

        def encode(x, one=one, b=b):
            return net.encode(x, mel[b : b + 1], one)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(encode, wav[b : b + 1])[:, 0]
        assert abs(torch.linalg.slogdet(jacobian)[1] - logdet[b]) < 1e-8


@pytest.mark.parametrize("order", [0, 8])
def test_nats_are_of_sound_whatever_is_modelled(small, order):
    """log p of the samples after the first frame, by the Jacobian of all that is done to them."""
    net = small(group=8, early_every=0, order=order, bound=1.0)
    wav, mel, _ = sound(net, 4)
    hop = net.mel.hop
    torch.manual_seed(3)
    noisy = wav + (torch.rand_like(wav) - 0.5) * STEP

    def encode(late):
        u, _ = excitation(torch.cat([noisy[:, :hop], late], dim=1), mel, net.mel, order)
        return net.encode(u, mel, first=1)[0].flatten()

    z, jacobian = encode(noisy[:, hop:]), torch.autograd.functional.jacobian(encode, noisy[:, hop:])[:, 0]
    log_prob = -0.5 * (z.square() + math.log(2 * math.pi)).sum() + torch.linalg.slogdet(jacobian.double())[1]
    torch.manual_seed(3)
    nats = net.loss({"wav": wav, "mel": mel})["nats"]
    assert abs(nats + log_prob / (3 * hop)) < 1e-3


@shapes
def test_chunks_are_what_the_whole_would_be(small, shape):
    net = small(**shape)
    frames = 4 * net.margin + 75  # several chunks, the last one short
    _, mel, style = sound(net, frames)
    draw = Draw(seed=5, temperature=0.02, bfloat16=False)
    wav = torch.cat(list(net.pieces([mel], style, draw)), dim=1)
    generator, steps = torch.Generator().manual_seed(5), 8 * SPEC.hop // net.group
    noise = [torch.randn(1, net.group, steps, generator=generator) for _ in range(-(-frames // 8))]
    z = 0.02 * torch.cat(noise, dim=-1)[..., : frames * SPEC.hop // net.group]
    with torch.no_grad():
        whole = net.decode(z, mel, style).clamp(-1, 1)
    assert whole.abs().max() > 0.01
    assert (wav - whole).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("shape", [SHAPES["early outputs"], SHAPES["transposed"]], ids=["smooth", "transposed"])
def test_a_frame_depends_on_its_margin_and_no_more(small, shape):
    net = small(**shape)
    frames, middle = 2 * net.margin + 21, net.margin + 10
    _, mel, _ = sound(net, frames)
    z = torch.randn(1, net.group, frames * SPEC.hop // net.group, generator=torch.Generator().manual_seed(2))
    changed, other, rate = mel.clone(), z.clone(), SPEC.hop // net.group
    changed[..., middle] += 1
    other[..., middle * rate : (middle + 1) * rate] += 1
    differs = (net.decode(other, changed) - net.decode(z, mel))[0].abs().unflatten(0, (-1, SPEC.hop)).amax(1) > 0
    reached = differs.nonzero().flatten()
    assert reached.min() >= middle - net.margin
    assert reached.max() <= middle + net.margin
    assert reached.max() > middle + 1  # it looks at more than its own frame


def test_threads_change_no_sample(lively):
    net = lively(WaveGlow)
    _, mel, _ = sound(net, 200)
    assert torch.equal(net.synthesize(mel, seed=1, threads=2), net.synthesize(mel, seed=1))
    with pytest.raises(WavegenError, match="threads"):
        net.synthesize(mel, seed=1, threads=0)


@pytest.mark.parametrize("order", [0, 16])
def test_bfloat16_costs_its_last_bits_and_no_more(moderate, order):
    net = moderate("edge", polish=0, order=order, channels=32)
    _, mel, _ = sound(net, 60)
    exact, rounded = (torch.cat(list(net.pieces([mel], None, Draw(1, 0.05, bits))), dim=1) for bits in (False, True))
    assert not torch.equal(exact, rounded)
    assert exact.abs().max() < 1
    assert (exact - rounded).square().mean() < 1e-3 * exact.square().mean()


@torch.no_grad()
def test_decoding_is_what_plain_convolutions_compute(lively):
    for net in (lively(WaveGlow, "nvidia-256", **PUBLISHED), lively(WaveGlow)):
        _, mel, _ = sound(net, 9)
        z = torch.randn(1, net.group, 9 * net.mel.hop // net.group, generator=torch.Generator().manual_seed(2))
        assert (plain_decode(net, z, mel) - net.decode(z, mel)).abs().max() < 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_thousand_steps_on_anything_stay_finite(unchecked, seed):
    """At a high rate, on batches from silence to full scale whose mels say something else."""
    torch.manual_seed(seed)
    tiny = {"group": 8, "channels": 4, "cond": 4, "layers": 1, "flows": 2, "early_every": 0, "order": 4 if seed else 0}
    net = WaveGlow.preset("tiny", mel=SPEC, mel_mean=-4.0, mel_std=1.0, **tiny)
    adam = torch.optim.Adam(net.parameters(), lr=3e-2)
    for _ in range(3334):
        loudness = 10 ** (-6 * torch.rand(2, 1))
        wav = (torch.randn(2, 2 * SPEC.hop) * loudness).clamp(-1, 1).round(decimals=4)
        loss = net.loss({"wav": wav, "mel": (torch.randn(2, SPEC.bins, 2) * 3 - 4).clamp(min=-11.5)})["loss"]
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        assert loss.isfinite()
        assert norm.isfinite()
        adam.step()


@pytest.mark.parametrize(
    "wrong",
    [
        {"group": 24}, {"group": 0}, {"flows": 0}, {"early_every": 1, "early_size": 16}, {"kernel": 2}, {"bound": 0.0},
        {"upsampler": "linear"}, {"upsampler": "transposed"}, {"context": ()}, {"context": (4,)}, {"style": -1},
        {"group": 16, "early_every": 2, "early_size": 3}, {"mel": MelSpec.named("tacotron2")},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(unchecked, wrong):
    with pytest.raises(WavegenError, match="expected") as error:
        WaveGlow.preset("tiny", **wrong)
    assert "\n" not in str(error.value)


def test_lengths_and_styles_that_do_not_fit_are_refused(small, unchecked):
    net, styled = small(group=8, early_every=0), small(group=8, early_every=0, style=3)
    wav, mel, _ = sound(net, 4)
    for batch in (
        {"wav": wav, "mel": mel[..., 1:]},
        {"wav": wav[:, :-8], "mel": mel},
        {"wav": wav[:, : SPEC.hop], "mel": mel[..., :1]},
    ):
        with pytest.raises(WavegenError, match="frames"):
            net.loss(batch)
    for model, style in (
        (styled, None),
        (styled, torch.zeros(1, 4)),
        (styled, torch.zeros(2, 3)),
        (net, torch.ones(1, 3)),
    ):
        with pytest.raises(WavegenError, match="style"):
            model.loss({"wav": wav, "mel": mel} | ({} if style is None else {"style": style}))


def test_double_precision_and_mels_with_gradients_are_fine(small):
    net = small(group=8, early_every=0)
    _, mel, _ = sound(net, 9)
    plain = net.synthesize(mel, seed=1, temperature=0.02)
    assert torch.equal(net.synthesize(mel.requires_grad_(), seed=1, temperature=0.02), plain)
    assert (net.double().synthesize(mel, seed=1, temperature=0.02) - plain).abs().max() < 0.01
