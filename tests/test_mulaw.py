"""Laws of mu-law companding: torchaudio's codes, code for code."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from wavegen.audio.mulaw import decode, edges, encode, levels
from wavegen.errors import WavegenError

CLASSES = (2, 3, 16, 100, 255, 256, 512, 1024, 65536)


def neighbours(centre: Tensor, steps: int = 20) -> Tensor:
    """Every float32 up to so many steps away."""
    found = [centre]
    for towards in (2.0, -2.0):
        near = centre
        for _ in range(steps):
            near = torch.nextafter(near, torch.tensor(towards))
            found.append(near)
    return torch.cat(found).clamp(-1, 1)


@pytest.mark.parametrize("classes", CLASSES)
def test_codes_are_torchaudios(classes: int):
    random = torch.Generator().manual_seed(classes)
    wavs = {
        "a dense grid": torch.linspace(-1, 1, 1_000_001),
        "speech-like": (0.05 * torch.randn(300_000, generator=random)).clamp(-1, 1),
        "every magnitude": torch.rand(300_000, generator=random).sub(0.5).sign()
        * 10 ** torch.empty(300_000).uniform_(-45, 0, generator=random),
        "16-bit samples": torch.arange(-32768, 32768) / 32768,
        "around every edge": neighbours(edges(classes)),
        "around every level": neighbours(levels(classes), 2),
        "the ends and zero": torch.tensor([-1.0, 1.0, 0.0, -0.0, 1e-45, -1e-45]),
    }
    for name, wav in wavs.items():
        assert torch.equal(encode(wav, classes), mu_law_encoding(wav, classes)), name


@pytest.mark.parametrize("classes", CLASSES)
def test_levels_are_torchaudios_and_keep_their_code(classes: int):
    codes = torch.arange(classes)
    assert (decode(codes, classes) - mu_law_decoding(codes, classes)).abs().max() <= 1e-6
    assert torch.equal(levels(classes), decode(codes, classes))
    assert torch.equal(encode(decode(codes, classes), classes), codes)


@pytest.mark.parametrize("classes", CLASSES)
def test_edges_bound_the_classes(classes: int):
    bounds = edges(classes)
    assert bounds.shape == (classes + 1,) and bounds[0] == -1 and bounds[-1] == 1
    assert (bounds.diff() > 0).all()
    assert torch.equal(encode(bounds[:-1], classes), torch.arange(classes))
    below = torch.nextafter(bounds[1:-1], torch.tensor(-2.0))
    assert torch.equal(encode(below, classes), torch.arange(classes - 1))
    assert torch.equal(torch.bucketize(levels(classes), bounds[1:-1], right=True), torch.arange(classes))


def test_shapes_and_strides_do_not_matter():
    wav = torch.rand(3, 5, 40) * 2 - 1
    assert torch.equal(encode(wav), mu_law_encoding(wav, 256))
    assert torch.equal(encode(wav.mT[:, ::2]), mu_law_encoding(wav.mT[:, ::2], 256))
    assert encode(wav[:, :0]).shape == (3, 0, 40) and encode(wav[0, 0, 0]).shape == ()
    assert torch.equal(decode(encode(wav).mT), decode(encode(wav)).mT)
    for kind in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(decode(encode(wav).to(kind)), decode(encode(wav)))


def test_what_lies_outside_takes_the_ends():
    wav = torch.tensor([1.5, -1.5, 3e38, -3e38, torch.inf, -torch.inf])
    assert encode(wav).tolist() == [255, 0] * 3


@pytest.mark.parametrize("position", [0, 4095, 4096, 9999])
def test_nan_is_refused(position: int):
    wav = torch.zeros(10_000)
    wav[position] = torch.nan
    with pytest.raises(WavegenError, match="NaN"):
        encode(wav)


@pytest.mark.parametrize("code", [-1, 256, -(2**63), 2**62])
def test_a_code_of_another_alphabet_is_refused(code: int):
    with pytest.raises(WavegenError, match="codes outside 0 to 255"):
        decode(torch.tensor([3, code]))


@pytest.mark.parametrize("classes", [1, 0, -256, 65537])
def test_an_impossible_number_of_classes_is_refused(classes: int):
    for use in (lambda: encode(torch.zeros(3), classes), lambda: decode(torch.zeros(3).long(), classes)):
        with pytest.raises(WavegenError, match=f"{classes} mu-law classes, expected 2 to 65536"):
            use()


def test_many_threads_may_encode_at_once():
    wavs = [torch.rand(50_000, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encode, wavs))
    assert all(torch.equal(codes, mu_law_encoding(wav, 256)) for codes, wav in zip(found, wavs, strict=True))
