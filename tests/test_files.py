"""Laws of sound files and mel files: nothing changed, nothing half-read, nothing half-written."""

import json
import os
import pickle
import resource
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor

from wavegen.audio.files import info, load_mel, read, save_mel, write
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError

SPEC = MelSpec.named("hifigan")


def tone(samples: int = 22050, rate: int = 22050, hertz: float = 440) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(samples) / rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_16_bit_file_read_and_written_again_is_the_same(tmp_path: Path, suffix: str):
    every = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(tmp_path / f"a{suffix}", every, 22050, subtype="PCM_16")
    wav, rate = read(tmp_path / f"a{suffix}")
    with warnings.catch_warnings(action="error"):
        write(tmp_path / f"b{suffix}", wav, rate)
    assert soundfile.info(tmp_path / f"b{suffix}").subtype == "PCM_16"
    assert np.array_equal(soundfile.read(tmp_path / f"b{suffix}", dtype="int16")[0], every)
    assert torch.equal(read(tmp_path / f"b{suffix}")[0], wav) and wav.dtype == torch.float32


@pytest.mark.parametrize(
    ("suffix", "error"), [(".wav", 1 / 65536), (".flac", 1 / 65536), (".ogg", 0.05), (".mp3", 0.05)]
)
def test_the_level_is_left_alone(tmp_path: Path, suffix: str, error: float):
    for gain in (0.01, 0.5, 1.9):
        write(tmp_path / f"a{suffix}", gain * tone(), 22050)
        wav, rate = read(tmp_path / f"a{suffix}")
        assert rate == 22050 and len(wav) == 22050
        assert (wav - (gain * tone()).clamp(-1, 1))[2000:-2000].abs().max() <= error + 1e-7


def test_clipping_is_counted(tmp_path: Path):
    wav = torch.tensor([0.0, 1.0, -1.0, 1.001, -2.0, 7.0])
    with pytest.warns(UserWarning, match="3 of 6 samples"):
        write(tmp_path / "a.wav", wav, 8000)
    assert torch.allclose(read(tmp_path / "a.wav")[0], wav.clamp(-1, 1), atol=1 / 32768)


def test_channels_are_averaged(tmp_path: Path):
    left, right = tone().numpy(), tone(hertz=100).numpy()
    soundfile.write(tmp_path / "a.wav", np.stack([left, right, left], 1), 22050, subtype="FLOAT")
    assert np.allclose(read(tmp_path / "a.wav")[0], (2 * left + right) / 3, atol=1e-6)
    assert info(tmp_path / "a.wav") == (22050, 22050, 3)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_resampling_keeps_the_sound(tmp_path: Path, rate: int):
    write(tmp_path / "a.flac", tone(), 22050)
    wav, found = read(tmp_path / "a.flac", rate=rate)
    assert found == rate and len(wav) == rate and wav.dtype == torch.float32
    assert (wav - tone(rate, rate))[200:-200].abs().max() < 1e-3
    assert torch.equal(read(tmp_path / "a.flac", rate=22050)[0], read(tmp_path / "a.flac")[0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "w64", "caf"])
def test_whatever_libsndfile_reads_is_read(tmp_path: Path, suffix: str):
    soundfile.write(tmp_path / f"a.{suffix}", tone().numpy(), 22050)
    wav, rate = read(tmp_path / f"a.{suffix}")
    assert rate == 22050 and (wav - tone())[2000:20000].abs().max() < 0.05


def test_minutes_of_ogg_are_written(tmp_path: Path):
    wav = tone(120 * 22050)
    write(tmp_path / "a.ogg", wav, 22050)
    assert info(tmp_path / "a.ogg") == (22050, len(wav), 1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff", "caf"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str):
    whole, half = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    soundfile.write(whole, tone().numpy(), 22050)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(WavegenError, match=f"b.{suffix}.*(truncated|malformed)"):
        read(half)


def test_a_wav_piped_by_a_program_that_did_not_know_its_length_is_read(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", tone().numpy(), 22050)
    streamed = bytearray((tmp_path / "a.wav").read_bytes())
    streamed[4:8] = streamed[40:44] = b"\xff" * 4
    (tmp_path / "b.wav").write_bytes(streamed)
    assert torch.equal(read(tmp_path / "b.wav")[0], read(tmp_path / "a.wav")[0])


def test_a_header_that_lies_costs_no_memory(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", tone().numpy(), 22050)
    lying = bytearray((tmp_path / "a.flac").read_bytes())
    lying[21] |= 0x0F
    (tmp_path / "b.flac").write_bytes(lying)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WavegenError, match="b.flac is truncated"):
        read(tmp_path / "b.flac")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; the header claims 64 G samples


@pytest.mark.parametrize("content", [b"", b"RIFF", b"hello " * 100, pickle.dumps([1, 2])])
@pytest.mark.parametrize("suffix", ["wav", "flac", "raw", "txt"])
def test_what_is_not_sound_is_refused(tmp_path: Path, content: bytes, suffix: str):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for use in (read, info):
        with pytest.raises(WavegenError, match=f"a.{suffix} is not a sound file"):
            use(path)


def test_missing_and_empty_and_nan_are_refused_by_name(tmp_path: Path):
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(WavegenError, match=f"no sound file at {path}"):
            read(path)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 22050)
    for rate in (None, 16000):
        with pytest.raises(WavegenError, match="empty.wav holds no samples"):
            read(tmp_path / "empty.wav", rate=rate)
    for value in (np.nan, np.inf):
        soundfile.write(tmp_path / "strange.wav", np.array([0, value, 0]), 22050, subtype="FLOAT")
        with pytest.raises(WavegenError, match="strange.wav holds NaN or infinite"):
            read(tmp_path / "strange.wav")
    write(tmp_path / "a.wav", tone(), 22050)
    with pytest.raises(WavegenError, match="rate of 0 Hz"):
        read(tmp_path / "a.wav", rate=0)


def test_what_cannot_be_sound_is_not_written(tmp_path: Path):
    path = tmp_path / "a.wav"
    write(path, tone(), 22050)
    kept = path.read_bytes()
    for wav, expected in ((torch.zeros(0), "at least one"), (torch.tensor([0, torch.nan]), "NaN")):
        with pytest.raises(WavegenError, match=f"a.wav.*{expected}"):
            write(path, wav, 22050)
    with pytest.raises(WavegenError, match="rate of 0 Hz"):
        write(path, tone(), 0)
    with pytest.raises(WavegenError, match="at 12345 Hz"):
        write(tmp_path / "a.mp3", tone(), 12345)
    with pytest.raises(WavegenError, match="suffix is '.m4a', expected one of .wav, .flac"):
        write(tmp_path / "a.m4a", tone(), 22050)
    with pytest.raises(WavegenError, match="cannot write"):
        write(path / "inside" / "b.wav", tone(), 22050)
    assert path.read_bytes() == kept and os.listdir(tmp_path) == ["a.wav"]


FULL_DISK = """
import resource, sys, torch
from wavegen.audio import files
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
spec = MelSpec.named("hifigan")
for name in sys.argv[1:]:
    try:
        if name.endswith(".safetensors"):
            files.save_mel(name, torch.zeros(80, 1000), spec)
        else:
            files.write(name, torch.rand(220_500) - 0.5, 22050)
    except WavegenError as error:
        print(str(error).count("cannot write"))
"""


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path):
    names = ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.safetensors"]
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *(str(tmp_path / name) for name in names)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["1"] * len(names), run.stderr
    assert not list(tmp_path.iterdir())


def test_a_mel_and_its_convention_come_back(tmp_path: Path):
    mel = SPEC(tone()[None])[0]
    for spec in (SPEC, replace(SPEC, mean=(0.1,) * 80, std=(2.0,) * 80)):
        save_mel(tmp_path / "a.safetensors", mel, spec)
        found, its = load_mel(tmp_path / "a.safetensors")
        assert torch.equal(found, mel) and its == spec
        assert torch.equal(load_mel(tmp_path / "a.safetensors", spec)[0], mel)


def test_a_mel_is_converted_or_refused(tmp_path: Path):
    r9y9 = MelSpec.named("r9y9")
    mel, natural = r9y9(tone()[None])[0], replace(r9y9, log="ln")
    save_mel(tmp_path / "a.safetensors", mel, r9y9)
    found, its = load_mel(tmp_path / "a.safetensors", natural)
    assert its == natural and torch.equal(found, r9y9.convert(mel, natural))
    with pytest.raises(WavegenError, match=r"a.safetensors: cannot convert a mel from r9y9 .* to hifigan .*fmin 125"):
        load_mel(tmp_path / "a.safetensors", SPEC)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_are_read(tmp_path: Path, kind: type, order: Literal["C", "F"]):
    mel = SPEC(tone()[None])[0].numpy().astype(kind, order=order)
    np.save(tmp_path / "a.npy", mel)
    found, its = load_mel(tmp_path / "a.npy", SPEC)
    assert its == SPEC and found.dtype == torch.float32 and np.array_equal(found.numpy(), mel.astype(np.float32))
    with pytest.raises(WavegenError, match="does not say its mel convention"):
        load_mel(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((7, 80)), "transpose the last two"),
        (np.zeros((100, 7)), r"\(100, 7\), expected \(80 bins"),
        (np.zeros((1, 80, 7)), r"\(1, 80, 7\)"),
        (np.zeros(80), "80 bins"),
        (np.zeros((80, 0)), "at least one frame"),
        (np.full((80, 7), np.nan), "NaN"),
        (np.zeros((80, 7), int), "int64 values"),
        (np.array([[{}] * 7] * 80), "not a complete array"),
    ],
)
def test_arrays_that_are_no_mels_are_refused(tmp_path: Path, array: np.ndarray, expected: str):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(WavegenError, match=f"a.npy.*{expected}"):
        load_mel(tmp_path / "a.npy", SPEC)


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_truncated_and_foreign_mel_files_are_refused(tmp_path: Path, name: str):
    mel, path = SPEC(tone()[None])[0], tmp_path / name
    if name == "a.npy":
        np.save(path, mel.numpy())
    else:
        save_mel(path, mel, SPEC)
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:60], whole[:-1], pickle.dumps({"mel": [1]}), b"\x00" * 500):
        path.write_bytes(content)
        with pytest.raises(WavegenError, match=f"{name} is not a complete"):
            load_mel(path, SPEC)
    with pytest.raises(WavegenError, match=f"no mel file at .*none.{name[2:]}"):
        load_mel(tmp_path / f"none.{name[2:]}", SPEC)


def test_a_header_that_promises_terabytes_costs_no_memory(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((80, 7), np.float32))
    lying = (tmp_path / "a.npy").read_bytes().replace(b"(80, 7), }          ", b"(80, 70000000000), }")
    assert b"70000000000" in lying
    (tmp_path / "a.npy").write_bytes(lying)
    with pytest.raises(WavegenError, match="a.npy is not a complete array"):
        load_mel(tmp_path / "a.npy", SPEC)


def test_a_tampered_convention_is_refused(tmp_path: Path):
    path, fields, mel = tmp_path / "a.safetensors", asdict(SPEC), {"mel": torch.zeros(80, 7)}
    headers = [
        {"spec": {**fields, "fmin": 50.0}, "hash": SPEC.hash},
        {"spec": {**fields, "colour": "red"}, "hash": SPEC.hash},
        {"spec": {**fields, "hop": "256"}, "hash": SPEC.hash},
        {"spec": fields},
        [],
    ]
    for header in headers:
        save_file(mel, path, metadata={"mel": json.dumps(header)})
        with pytest.raises(WavegenError, match="a.safetensors is not a complete mel file"):
            load_mel(path)
    save_file(mel, path)
    with pytest.raises(WavegenError, match="a.safetensors is not a complete mel file"):
        load_mel(path)


def test_only_mels_are_saved(tmp_path: Path):
    with pytest.raises(WavegenError, match="transpose"):
        save_mel(tmp_path / "a.safetensors", torch.zeros(7, 80), SPEC)
    with pytest.raises(WavegenError, match=r"named \*.safetensors"):
        save_mel(tmp_path / "a.npy", torch.zeros(80, 7), SPEC)
    assert not list(tmp_path.iterdir())
