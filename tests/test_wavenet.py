"""Laws of WaveNet: causal, with the receptive field that it states, an exact density, and a kernel that samples it."""

import itertools
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from wavegen.audio.griffin_lim import agree
from wavegen.audio.lpc import excitation, linear_prediction
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.kernels.wavenet import filter_all_pole
from wavegen.vocoders import incremental
from wavegen.vocoders.pieces import Draw
from wavegen.vocoders.wavenet import STEP, WaveNet

SPEC = MelSpec(rate=8000, n_fft=128, hop=32, win=128, bins=12, fmax=4000, centring="middle")
SMALL = {"mel": SPEC, "polish": 0, "mel_mean": -4.0, "mel_std": 1.0}
SHAPES = {
    f"{law}, kernel {kernel}, block {block}": {
        "law": law,
        "components": k,
        "kernel": kernel,
        "block": block,
        "order": 0,
    }
    for (law, k), kernel, block in itertools.product(
        [("mulaw", 1), ("gaussians", 1), ("gaussians", 2), ("logistics", 1), ("logistics", 3)], (2, 3), (1, 8)
    )
} | {
    "order 16": {"order": 16},
    "order 8, style, kernel 3": {"order": 8, "style": 3, "kernel": 3, "block": 4},
    "mulaw, style": {"law": "mulaw", "order": 0, "block": 1, "style": 3, "classes": 64},
    "unconditional": {"law": "logistics", "components": 2, "order": 0, "cond": 0, "block": 2},
    "unconditional, style": {"law": "mulaw", "order": 0, "cond": 0, "style": 3, "block": 1},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture
def small(lively):
    """Makes a WaveNet of few and short frames whose samples stay well within [-1, 1]."""

    def build(**changes):
        net = lively(WaveNet, **{**SMALL, **changes})
        if net.law != "mulaw" and not net.order:
            own = net.out.bias.data[: net.block * net.sample_law.width].view(net.block, -1, net.components)
            own[:, -1] -= 3.0
        return net

    return build


def inputs(net, frames=10, batch=1):
    """Sound, mel and style for a net, the same for every net."""
    generator = torch.Generator().manual_seed(1)
    u = 0.3 * torch.randn(batch, frames * net.mel.hop, generator=generator)
    mel = torch.randn(batch, net.mel.bins, frames, generator=generator) * 0.5 - 4
    style = torch.randn(batch, net.style, generator=generator) if net.style else None
    return u, mel, style


def reference(net, mel, style, *, seed, temperature=1.0):
    """Plain ancestral sampling through the parallel network: every sample costs a pass over all of them."""
    batch, samples, law = len(mel), mel.shape[-1] * net.mel.hop, net.sample_law
    noise = law.noise((samples // net.block, 1, net.block), torch.Generator().manual_seed(seed)).expand(
        -1, batch, -1, -1
    )
    u = torch.zeros(batch, samples)
    for n in range(samples // net.block):
        with torch.no_grad():
            params, links = net.parameters_of(u, mel, style)
        for p in range(net.block):
            drawn = law.sample(params[n, :, p], noise[n, :, p], temperature)
            u[:, n * net.block + p] = drawn + net.linked(net.steps(u)[n : n + 1], links[n : n + 1])[0, :, p]
    if net.order:
        filters = (value.numpy() for value in linear_prediction(mel, net.mel, net.order))
        u = torch.from_numpy(filter_all_pole(u.numpy(), *filters, np.zeros((batch, net.order)))[0])
    return u.clamp(-1, 1)


def round_to_bfloat16(net):
    """Make the weights what the kernel stores: the residual ones are stored times sqrt(1/2)."""
    for name, weight in net.named_parameters():
        factor = math.sqrt(0.5) if name == "stack.residual" else 1
        weight.data = (weight.data * factor).bfloat16().float() / factor


def assert_same_sound(net, made, expected):
    """Identical classes, or equal to 1e-5.

    Two sums of the same 256 probabilities differ in the last digit, so that once in thousands of draws the uniform
    number falls between them. Then a neighbouring class is drawn, and what follows has another past.
    """
    if net.law == "mulaw":
        ours, theirs = net.sample_law.encode(made), net.sample_law.encode(expected)
        for a, b in zip(torch.atleast_2d(ours), torch.atleast_2d(theirs), strict=True):
            differing = (a != b).nonzero().flatten().tolist()
            first = differing[0] if differing else len(a)
            assert first > len(a) // 2
            assert first == len(a) or abs(a[first] - b[first]) == 1
    else:
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@shapes
@pytest.mark.parametrize("batch", [1, 3])
def test_the_kernel_draws_what_plain_torch_draws(small, shape, batch):
    """Offline and streamed, with float32 weights and with bfloat16 ones, sample by sample for the same noise."""
    net = small(**shape)
    _, mel, style = inputs(net, batch=batch)
    exact = incremental.streams(net, mel, style, Draw(3, 0.8, bfloat16=False))
    assert_same_sound(net, exact, reference(net, mel, style, seed=3, temperature=0.8))
    round_to_bfloat16(net)
    expected = reference(net, mel, style, seed=3)
    assert expected.std() > 0.01
    assert_same_sound(net, net.synthesize(mel, style, seed=3), expected)
    one = None if style is None else style[-1]
    streamed = torch.cat(list(net.stream(mel[-1].split([1, 6, 3], dim=-1), one, seed=3)))
    assert_same_sound(net, streamed, expected[-1])


@pytest.mark.parametrize("shape", [shape for shape in SHAPES.values() if shape.get("law") == "mulaw"], ids=str)
def test_every_class_is_the_one_its_uniform_number_falls_in(small, shape):
    """Of every draw, given the past that the kernel itself made: the cumulative sums differ in the last digits only."""
    net = small(**shape)
    round_to_bfloat16(net)
    _, mel, style = inputs(net, batch=3)
    made = net.synthesize(mel, style, seed=3)
    with torch.no_grad():
        params, _ = net.parameters_of(made, mel, style)
    reached = params.double().softmax(-1).cumsum(-1)
    code = net.sample_law.encode(net.steps(made)).unsqueeze(-1)
    uniform = net.sample_law.noise((len(params), 1, net.block), torch.Generator().manual_seed(3))[..., :1]
    upper = reached.gather(-1, code)
    lower = functional.pad(reached, (1, 0)).gather(-1, code)
    assert (lower - 1e-5 <= uniform).all()
    assert (uniform <= upper + 1e-5).all()


@shapes
def test_a_prediction_depends_on_its_receptive_field_and_nothing_else(small, shape):
    net = small(**shape)
    u, mel, style = inputs(net, frames=8)
    first = u.shape[1] // net.block // 2  # the step that is looked at
    begin = first * net.block

    @torch.no_grad()
    def predicted(changed=()):
        other = u.clone()
        other[:, changed] = -other[:, changed] + 0.3
        params, links = net.parameters_of(other, mel, style)
        return torch.cat([params[first].flatten(), links[first].flatten()])

    before, field = predicted(), net.receptive_field
    assert field < begin
    assert not torch.equal(predicted([begin - field]), before), "the oldest sample has no effect"
    assert not torch.equal(predicted([begin - 1]), before), "the newest sample has no effect"
    assert torch.equal(predicted(range(begin - field)), before), "older samples have an effect"
    assert torch.equal(predicted(range(begin, u.shape[1])), before), "the present or the future has an effect"


@shapes
def test_a_longer_sound_does_not_change_earlier_predictions(small, shape):
    net = small(**{**shape, "cond": 0})  # the mel looks ahead, and that is no matter of sound
    u, _, style = inputs(net, frames=4, batch=2)
    half = u.shape[1] // 2
    with torch.no_grad():
        params, links = net.parameters_of(u, None, style)
        early, early_links = net.parameters_of(u[:, :half], None, style)
    torch.testing.assert_close(params[: len(early)], early, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(links[: len(early)], early_links, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "field"),
    [("r9y9-mulaw256", 6139), ("r9y9-mol", 505), ("r9y9-gaussian", 505), ("nv-wavenet", 511), ("paper", 3070)],
)
def test_published_networks_have_their_receptive_fields(preset, field):
    assert WaveNet.preset(preset).receptive_field == field


@pytest.mark.parametrize(("preset", "millions"), [("r9y9-mulaw256", 4.68), ("r9y9-mol", 3.70), ("r9y9-gaussian", 3.70)])
def test_published_networks_have_about_their_sizes(preset, millions):
    """Of https://github.com/r9y9/wavenet_vocoder; our conditioning, upsampling and last layer differ a little."""
    size = sum(weight.numel() for weight in WaveNet.preset(preset).parameters())
    assert size / 1e6 == pytest.approx(millions, rel=0.02)


def noisy(wav):
    """What `nats` makes of a wav when torch is seeded with 0: 16-bit steps filled evenly."""
    torch.manual_seed(0)
    return wav + (torch.rand_like(wav) - 0.5) * STEP


def test_a_block_of_gaussians_is_a_gaussian_vector(small):
    net = small(block=8, order=0)
    wav, mel, style = inputs(net, frames=3, batch=2)
    torch.manual_seed(0)
    nats = net.nats({"wav": wav, "mel": mel})
    u = net.steps(noisy(wav)).double()  # (N, B, P)
    params, links = (value.double() for value in net.parameters_of(noisy(wav), mel, style))
    _, mean, log_scale = (value.squeeze(-1) for value in net.sample_law.split(params))
    row, column = torch.tril_indices(8, 8, -1)
    matrix = torch.zeros(*links.shape[:2], 8, 8, dtype=torch.float64)
    matrix[..., row, column] = links
    inverse = torch.linalg.inv(torch.eye(8) - matrix)  # u = A u + e  =>  u = (1 - A)^-1 e
    spread = inverse * log_scale.exp().unsqueeze(-2)
    vector = torch.distributions.MultivariateNormal((inverse @ mean.unsqueeze(-1)).squeeze(-1), spread @ spread.mT)
    ours = -nats.unflatten(1, (-1, 8)).sum(-1).T
    torch.testing.assert_close(ours.double(), vector.log_prob(u), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "shape", [{"order": 16, "block": 8}, {"order": 8, "law": "logistics", "components": 3, "block": 2}]
)
def test_the_density_of_sound_is_that_of_its_excitation_times_the_change_of_volume(small, shape):
    net = small(**shape)
    wav, mel, _ = inputs(net, frames=3)
    wav = 0.1 * wav
    jacobian = torch.autograd.functional.jacobian(lambda x: excitation(x, mel, net.mel, net.order)[0][0], wav)[:, 0]
    sign, logdet = torch.linalg.slogdet(jacobian.double())
    u, log_slope = excitation(noisy(wav), mel, net.mel, net.order)
    assert sign == 1
    torch.testing.assert_close(log_slope.sum().double(), logdet, rtol=1e-5, atol=1e-3)
    known = torch.arange(u.shape[1]) >= net.order
    params, links = net.parameters_of(u * known, mel)
    parts = net.sample_law.log_prob(params, net.steps(u) - net.linked(net.steps(u), links))
    torch.manual_seed(0)
    nats = net.nats({"wav": wav, "mel": mel}).sum()
    torch.testing.assert_close(-nats.double(), parts.double().sum() + logdet, rtol=1e-5, atol=1e-2)


@shapes
def test_the_loss_is_in_nats_and_in_bits_per_sample_of_16(small, shape):
    net = small(**shape)
    wav, mel, style = inputs(net, frames=4, batch=2)
    batch = {"wav": wav.clamp(-1, 1), "mel": mel} | ({} if style is None else {"style": style})
    torch.manual_seed(0)
    terms = net.loss(batch)
    torch.manual_seed(0)
    nats = net.nats(batch)
    assert nats.shape == wav.shape
    assert terms["loss"].item() == terms["nats"].item() == pytest.approx(nats[:, SPEC.hop :].mean().item(), rel=1e-5)
    assert terms["bits"].item() == pytest.approx(15 + terms["nats"].item() / math.log(2), abs=1e-4)
    assert terms["loss"].requires_grad and not terms["bits"].requires_grad


@shapes
def test_every_weight_learns(small, shape):
    net = small(**shape)
    wav, mel, style = inputs(net, frames=4, batch=2)
    net.loss({"wav": wav.clamp(-1, 1), "mel": mel} | ({} if style is None else {"style": style}))["loss"].backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


def test_threads_and_folds_keep_the_sound(small):
    net = small(block=8, order=16)
    _, mel, _ = inputs(net, frames=90, batch=3)
    whole = net.synthesize(mel, seed=1)
    for threads in (2, 3, 8):
        assert torch.equal(net.synthesize(mel, seed=1, threads=threads), whole)
    for folds in (2, 4, 200):
        folded = net.synthesize(mel[:1], seed=1, folds=folds)
        assert folded.shape == whole[:1].shape
        assert folded.isfinite().all() and folded.abs().max() <= 1
        assert torch.equal(net.synthesize(mel[:1], seed=1, folds=folds, threads=2), folded)
        # the first fold is as it was until it nears its end, before five eighths of a part
        clear = (90 // folds * 5 // 8 - net.margin - incremental.CHUNK) * SPEC.hop
        assert torch.equal(folded[:, : max(clear, 0)], whole[:1, : max(clear, 0)])
    folded = net.synthesize(mel[:1], seed=1, folds=4)
    for part, other in zip(folded.split(15 * SPEC.hop, 1), whole[:1].split(15 * SPEC.hop, 1), strict=True):
        assert 0.7 < part.std() / other.std() < 1.4
        assert part.diff().abs().max() < 1.5 * other.diff().abs().max(), "a click"


def test_polish_in_chunks_is_polish_of_the_whole(small):
    net = small(order=16)
    mel = inputs(net, frames=60)[1] - 2  # so quiet that nothing is cut off at 1
    raw = net.synthesize(mel, seed=1)
    net.polish = 4
    whole = agree(raw, mel, SPEC, iterations=4)
    assert raw.abs().max() < 1 and (whole - raw).abs().max() > 0.01
    torch.testing.assert_close(net.synthesize(mel, seed=1), whole.clamp(-1, 1), rtol=0, atol=STEP)


def test_progress_counts_every_sample(small):
    net, counts = small(block=8, order=0), []
    _, mel, _ = inputs(net, frames=30, batch=3)
    net.synthesize(mel, seed=1, threads=2, progress=counts.append)
    assert sum(counts) == 3 * 30 * SPEC.hop
    assert len(counts) > 4


def test_sound_out_of_nothing(small):
    net = small(cond=0, order=0, style=3)
    made = net.sample(1000, torch.randn(2, 3), seed=1)
    assert made.shape == (2, 1024) and made.std() > 0
    assert torch.equal(made, net.sample(1000, torch.zeros(2, 3), seed=1)) is False
    assert net.sample(1, torch.zeros(1, 3), seed=1).shape == (1, SPEC.hop)
    for needy in (small(order=0), small(cond=0, order=16)):
        with pytest.raises(WavegenError, match="needs a mel"):
            needy.sample(1000)


@pytest.mark.parametrize(
    "fields",
    [
        {"law": "laplace"}, {"layers": 5, "stacks": 2}, {"layers": 0}, {"stacks": 0}, {"kernel": 1}, {"block": 0},
        {"block": 3}, {"residual": 6}, {"gate": 0}, {"skip": -4}, {"head": 7}, {"context": ()}, {"context": (4,)},
        {"cond": -1}, {"style": -1}, {"order": -1}, {"law": "mulaw", "order": 16}, {"block": 16, "order": 16},
        {"components": 0}, {"law": "mulaw", "order": 0, "classes": 1}, {"polish": -1},
        {"polish": 2, "order": 0, "mel": MelSpec.named("r9y9")},
    ],
    ids=str,
)  # fmt: skip
def test_networks_that_cannot_be_are_refused(fields, unchecked):
    with pytest.raises(WavegenError) as error:
        WaveNet.preset("tiny", **{**SMALL, **fields})
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_folds_and_threads_that_cannot_be_are_refused(small):
    net = small(order=0)
    mel = inputs(net, batch=2)[1]
    for options in ({"folds": 2}, {"folds": 0}, {"threads": 0}, {"temperature": -1.0}, {"temperature": math.nan}):
        with pytest.raises(WavegenError, match="expected"):
            net.synthesize(mel, **options)


ENDLESS = """
import sys, torch
from wavegen.vocoders.wavenet import WaveNet

torch.set_num_threads(1)
net = WaveNet.preset("small").eval()
mel = torch.zeros(2, 80, 100_000)  # 38 minutes of sound
for threads in (1, 2):
    try:
        net.synthesize(mel, seed=0, threads=threads, progress=lambda count: print("busy", flush=True))
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


def test_ctrl_c_stops_a_long_generation():
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(2):
                assert process.stdout.readline() == "busy\n"
                process.send_signal(signal.SIGINT)
                since = time.monotonic()
                assert next(line for line in process.stdout if line != "busy\n") == "stopped\n"
                assert time.monotonic() - since < 10  # of minutes; a second where nothing else runs
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
