"""Sound files and mel files: read and written whole or not at all, and never at another level."""

import json
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wavegen.atomic import write_aside
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError

__all__ = ["Info", "check_suffix", "info", "load_mel", "read", "save_mel", "write"]

BLOCK = 1 << 16  # libsndfile overflows its stack on minutes of Ogg Vorbis given at once
SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
STREAMED = 0x7FFF0000  # a header written before the end was known states about the largest size it can


class Info(NamedTuple):
    """What a sound file says of itself: Hz, samples per channel, channels."""

    rate: int
    frames: int
    channels: int


def info(path: Path | str) -> Info:
    """The header of a sound file; no sample is decoded.

    Raises:
        WavegenError: no such file, or not a sound file.
    """
    with _opened(path) as file:
        return Info(file.samplerate, file.frames, file.channels)


def read(path: Path | str, *, rate: int | None = None) -> tuple[Float[Tensor, " T"], int]:
    """A sound file as mono float32 and its rate in Hz; channels are averaged, soxr resamples when `rate` is given.

    Reads what libsndfile reads: WAV, FLAC, Ogg, MP3, AIFF and more.

    Raises:
        WavegenError: missing, not sound, truncated (as far as the format can tell), empty, NaN or infinite samples.
    """
    with _opened(path) as file:
        found, wav = file.samplerate, _decoded(file, path)
    if not np.isfinite(wav).all():
        raise WavegenError(f"{path} holds NaN or infinite samples, expected numbers in [-1, 1]; export it again")
    if rate is not None and rate != found:
        _check_rate(rate)
        wav, found = soxr.resample(wav, found, rate), rate
    if len(wav) == 0:
        raise WavegenError(f"{path} holds no samples, expected sound; record or copy it again")
    return torch.from_numpy(wav), found


def write(path: Path | str, wav: Float[Tensor, " T"], rate: int) -> None:
    """Write mono sound in the format of the suffix: .wav and .flac as 16-bit PCM, .ogg (Vorbis), .mp3.

    The level is left alone: a 16-bit file read and written again keeps its samples. What lies outside [-1, 1] is
    clipped, with a warning that counts it. The file appears whole or not at all.

    Raises:
        WavegenError: unknown suffix, not (T,), empty, NaN or infinite, a rate the format has not, or unwritable.
    """
    suffix = check_suffix(path)
    _check_rate(rate)
    samples = _checked(wav, path)
    clipped = int((np.abs(samples) > 1).sum())
    if clipped:
        warnings.warn(
            f"{clipped} of {len(samples)} samples of {path} lie outside [-1, 1] and are clipped", stacklevel=2
        )
    samples = samples.clip(-1, 1)
    if SUBTYPES[suffix] == "PCM_16":  # libsndfile would read with 32768 and write with 32767
        samples = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
    with write_aside(path) as aside:
        try:
            with soundfile.SoundFile(aside, "w", rate, 1, SUBTYPES[suffix]) as file:
                for start in range(0, len(samples), BLOCK):
                    file.write(samples[start : start + BLOCK])
        except (soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts that all samples went out
            reason = getattr(error, "error_string", "the disk took only a part")
            raise WavegenError(f"cannot write {path} at {rate} Hz: {reason}; check the rate and the space") from error


def check_suffix(path: Path | str) -> str:
    """The suffix of a sound file that `write` can make, in lower case.

    Raises:
        WavegenError: it cannot.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUBTYPES:
        raise WavegenError(
            f"cannot write {path}: the suffix is {suffix!r}, expected one of {', '.join(SUBTYPES)}; rename the output"
        )
    return suffix


def save_mel(path: Path | str, mel: Float[Tensor, "M F"], spec: MelSpec) -> None:
    """Write one mel and its convention as safetensors, atomically.

    Raises:
        WavegenError: as `MelSpec.check`, another suffix than .safetensors, or an unwritable folder.
    """
    if Path(path).suffix != ".safetensors":
        raise WavegenError(f"cannot write a mel to {path}: its convention needs a file named *.safetensors")
    spec.check(mel)
    header = json.dumps({"spec": asdict(spec), "hash": spec.hash})
    with write_aside(path) as aside:
        try:
            save_file({"mel": mel.detach().cpu().float().contiguous()}, aside, metadata={"mel": header})
        except SafetensorError as error:
            raise WavegenError(f"cannot write {path}: {error}; check the space on the disk") from error


def load_mel(path: Path | str, spec: MelSpec | None = None) -> tuple[Float[Tensor, "M F"], MelSpec]:
    """One mel and its convention, from a file of `save_mel` or a plain `.npy` array (M, F), whose `spec` you must give.

    With a `spec`, the mel is converted to it where that is exact.

    Raises:
        WavegenError: missing, truncated, not a mel file, another convention than `spec`; as `MelSpec.check`.
    """
    if not Path(path).is_file():
        raise WavegenError(f"no mel file at {path}; check the path")
    mel, found = _load_array(path, spec) if Path(path).suffix == ".npy" else _load_safetensors(path)
    try:
        found.check(mel)
        if mel.ndim != 2:
            raise WavegenError(f"got a mel of shape {tuple(mel.shape)}, expected one of ({found.bins}, frames)")
        return (mel, found) if spec is None else (found.convert(mel, spec), spec)
    except WavegenError as error:
        raise WavegenError(f"{path}: {error}") from error


def _load_array(path: Path | str, spec: MelSpec | None) -> tuple[Tensor, MelSpec]:
    if spec is None:
        raise WavegenError(f"{path} does not say its mel convention; give one, MelSpec.named('hifigan') for instance")
    try:  # mapped, so that a header that promises more than the file holds allocates nothing; never unpickles
        mel = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise WavegenError(f"{path} is not a complete array of numbers ({error}); save it again with numpy") from error
    if mel.dtype.kind != "f":
        raise WavegenError(f"{path} holds {mel.dtype} values, expected floating-point mels; save it again as float32")
    return torch.from_numpy(np.array(mel, dtype=np.float32)), spec


def _load_safetensors(path: Path | str) -> tuple[Tensor, MelSpec]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["mel"])
            spec = MelSpec(**header["spec"])
            mel = file.get_tensor("mel").float()
        if spec.hash != header["hash"]:
            raise ValueError("the convention is not the one it was saved with")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise WavegenError(f"{path} is not a complete mel file ({error}); extract the mel again") from error
    return mel, spec


def _opened(path: Path | str) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise WavegenError(f"no sound file at {path}; check the path")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        reason = getattr(error, "error_string", error)
        raise WavegenError(f"{path} is not a sound file ({reason}); expected WAV, FLAC, Ogg, MP3 or alike") from error


def _decoded(file: soundfile.SoundFile, path: Path | str) -> np.ndarray:
    """All samples, mono, block by block: a header may lie about their number."""
    blocks = [np.zeros(0, np.float32)]
    try:
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            blocks.append(np.asarray(block[:, 0] if file.channels == 1 else block.mean(1), np.float32))
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", error)
        raise WavegenError(f"{path} is truncated or damaged ({reason}); copy it again") from error
    wav = np.concatenate(blocks)
    if file.frames != len(wav) or _missing_bytes(file.extra_info):
        raise WavegenError(f"{path} is truncated: its header promises more than its {len(wav)} samples; copy it again")
    return wav


def _missing_bytes(log: str) -> int:
    """Bytes that the header of a WAV or AIFF promises and the file has not, from what libsndfile noted."""
    sizes = ((int(said), int(real)) for said, real in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", log))
    return max((said - real for said, real in sizes if said < STREAMED), default=0)


def _check_rate(rate: int) -> None:
    if rate < 1:
        raise WavegenError(f"got a rate of {rate} Hz, expected a positive one; give samples per second")


def _checked(wav: Any, path: Path | str) -> np.ndarray:
    samples = torch.as_tensor(wav).detach().cpu().float().numpy()
    if samples.ndim != 1 or len(samples) == 0:
        raise WavegenError(
            f"cannot write {path}: got sound of shape {samples.shape}, expected (samples,), at least one"
        )
    if not np.isfinite(samples).all():
        raise WavegenError(f"cannot write {path}: got NaN or infinite samples, expected numbers in [-1, 1]; check them")
    return samples
