"""Laws of every vocoder: sound of the right length for a mel, repeatable, in pieces or whole, alone or in a batch."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from wavegen.errors import WavegenError
from wavegen.model import Model

STYLES = pytest.mark.parametrize("style", [0, 3], ids=["no style", "style"])


@pytest.fixture
def vocoder(vocoder_class, lively):
    """Makes a small vocoder with styles of so many numbers."""

    def build(style=0):
        return lively(vocoder_class, style=style)

    return build


def mels(net, frames, batch=1):
    """What the vocoder's own convention makes of noise that swells and fades."""
    generator = torch.Generator().manual_seed(1)
    samples = (frames + 3) * net.mel.hop + net.mel.n_fft
    wav = torch.randn(batch, samples, generator=generator) * torch.linspace(0, 12, samples).sin() * 0.1
    return net.mel(wav)[..., :frames]


def styles(net, batch=1):
    return torch.randn(batch, net.style, generator=torch.Generator().manual_seed(2)) if net.style else None


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 31])
def test_sound_is_as_long_as_its_mel_and_within_bounds(vocoder, frames):
    net = vocoder()
    wav = net.synthesize(mels(net, frames, 2), seed=0)
    assert wav.shape == (2, frames * net.mel.hop) and wav.dtype == torch.float32
    assert wav.isfinite().all() and wav.abs().max() <= 1 and wav.std() > 0
    assert not wav.requires_grad


@STYLES
def test_the_same_seed_gives_the_same_sound_and_another_seed_another(vocoder, style):
    net = vocoder(style)
    mel, given = mels(net, 12), styles(net)
    wav = net.synthesize(mel, given, seed=1)
    torch.rand(7)  # what else draws random numbers is of no matter
    assert torch.equal(net.synthesize(mel, given, seed=1), wav)
    assert not torch.equal(net.synthesize(mel, given, seed=2), wav)
    assert not torch.equal(net.synthesize(mel, given), net.synthesize(mel, given))


def test_mel_style_and_temperature_are_heard(vocoder):
    net = vocoder(3)
    mel, given = mels(net, 12), styles(net)
    wav = net.synthesize(mel, given, seed=1)
    assert not torch.equal(net.synthesize(mel + 1, given, seed=1), wav)
    assert not torch.equal(net.synthesize(mel, -given, seed=1), wav)
    assert not torch.equal(net.synthesize(mel, given, seed=1, temperature=0.5), wav)
    still = net.synthesize(mel, given, seed=1, temperature=0)
    assert torch.equal(still, net.synthesize(mel, given, seed=2, temperature=0))


@STYLES
def test_a_batch_of_three_is_three_batches_of_one(vocoder, style):
    net = vocoder(style)
    mel, given = mels(net, 21, 3), styles(net, 3)
    alone = [
        net.synthesize(mel[i : i + 1], None if given is None else given[i : i + 1], seed=1) for i in range(len(mel))
    ]
    assert torch.equal(net.synthesize(mel, given, seed=1), torch.cat(alone))


@STYLES
@pytest.mark.parametrize("split", ["whole", "frame by frame", "1, 3, 20, 2, 19", "8s", "random"])
def test_a_stream_is_the_whole_sound_in_pieces(vocoder, style, split):
    net = vocoder(style)
    mel, given = mels(net, 45), styles(net)
    cuts = torch.randint(0, 46, (9,), generator=torch.Generator().manual_seed(4)).unique().tolist()
    sizes = {"whole": [45], "frame by frame": [1] * 45, "1, 3, 20, 2, 19": [1, 3, 20, 2, 19], "8s": [8] * 5 + [5],
             "random": [b - a for a, b in itertools.pairwise([0, *cuts, 45]) if b > a]}  # fmt: skip
    pieces = list(net.stream(mel[0].split(sizes[split], dim=-1), None if given is None else given[0], seed=1))
    assert torch.equal(torch.cat(pieces), net.synthesize(mel, given, seed=1)[0])
    assert len(pieces) > 1


def test_a_stream_speaks_before_the_mel_ends(vocoder):
    net, heard = vocoder(), 0
    mel = mels(net, 400)[0]

    def arriving():
        nonlocal heard
        for frame in mel.split(1, dim=-1):
            heard += 1
            yield frame

    first = next(net.stream(arriving(), seed=1))
    assert first.numel() > 0
    assert heard < 100


def test_a_stream_of_nothing_is_silent(vocoder):
    assert list(vocoder().stream([], seed=1)) == []


def test_progress_counts_every_sample(vocoder):
    net, counts = vocoder(), []
    net.synthesize(mels(net, 30, 2), seed=1, progress=counts.append)
    assert sum(counts) == 2 * 30 * net.mel.hop


def test_a_saved_vocoder_makes_the_same_sound(vocoder, tmp_path):
    net = vocoder(3)
    net.save(tmp_path / "model.safetensors")
    mel, given = mels(net, 12), styles(net)
    loaded = Model.load(tmp_path / "model.safetensors")
    assert loaded.mel == net.mel
    assert torch.equal(loaded.synthesize(mel, given, seed=1), net.synthesize(mel, given, seed=1))


def test_mels_that_cannot_be_are_refused(vocoder, unchecked):
    net = vocoder()
    mel = mels(net, 12)
    nan, infinite = mel.clone(), mel.clone()
    nan[0, 3, 4], infinite[0, 3, 4] = math.nan, math.inf
    for wrong in (mel[:, 1:], mel.mT, mel[0], mel[None], mel[..., :0], mel[0, 0], nan, infinite):
        with pytest.raises(WavegenError) as error:
            net.synthesize(wrong, seed=1)
        assert "\n" not in str(error.value) and "expected" in str(error.value)
    for wrong in (mel[0, 1:], mel[0].T, mel, mel[0, :, :0], nan[0]):
        with pytest.raises(WavegenError, match="expected"):
            list(net.stream([mel[0], wrong], seed=1))


def test_styles_that_cannot_be_are_refused(vocoder, unchecked):
    net = vocoder(3)
    mel, given = mels(net, 12, 2), styles(net, 2)
    for wrong in (None, given[:1], given[:, :2], given[0], given[None], given * math.nan):
        with pytest.raises(WavegenError, match="style"):
            net.synthesize(mel, wrong, seed=1)
    plain = vocoder()
    with pytest.raises(WavegenError, match="style"):
        plain.synthesize(mel, given, seed=1)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(WavegenError, match="temperature"):
            plain.synthesize(mel, seed=1, temperature=wrong)
        with pytest.raises(WavegenError, match="temperature"):
            plain.stream([mel[0]], seed=1, temperature=wrong)
    for wrong in (-1, 2**70):
        with pytest.raises(WavegenError, match="seed"):
            plain.synthesize(mel, seed=wrong)


def test_a_mel_of_another_convention_is_refused_naming_both(vocoder):
    net = vocoder()
    net.check_mel(net.mel)
    other = replace(net.mel, fmin=net.mel.fmin + 10)
    with pytest.raises(WavegenError) as error:
        net.check_mel(other)
    assert str(other) in str(error.value) and str(net.mel) in str(error.value)


def batch_of(net, frames=8):
    """Two voices of harmonics, as predictable as sound can be, with their own mels."""
    time = torch.arange((frames + 4) * net.mel.hop + net.mel.n_fft) / net.mel.rate
    pitches = torch.tensor([[180.0], [240.0]])
    wav = sum(torch.sin(2 * math.pi * k * pitches * time + k) / k for k in range(1, 9)) * 0.1
    mel = net.mel(wav)[..., :frames]
    return {"wav": wav[:, : frames * net.mel.hop], "mel": mel} | ({"style": styles(net, 2)} if net.style else {})


def test_a_batch_without_a_mel_is_refused(vocoder):
    net = vocoder()
    with pytest.raises(WavegenError, match="mel"):
        net.loss({"wav": batch_of(net)["wav"]})


@STYLES
def test_every_weight_learns(vocoder, style):
    net = vocoder(style)
    net.loss(batch_of(net))["loss"].backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


def test_one_repeated_batch_becomes_ten_times_as_likely_per_sample(vocoder_class):
    """The tenfold fall of a loss, for a loss in nats: log(10) of them for each sample."""
    torch.manual_seed(0)
    net = vocoder_class.preset("tiny")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, 150)
    batch, losses = batch_of(net), []
    for _ in range(150):
        loss = net.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - math.log(10), losses
