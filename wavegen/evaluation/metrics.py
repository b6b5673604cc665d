"""What a listener would miss: distances between a recording and its synthesis, each one function of two sounds.

Every metric is `f(reference, synthesized, rate) -> float`, deterministic, and takes the two as 1-D arrays in [-1, 1].
Lengths may differ by 25 ms (two hops of the usual size), which is cut off; `METRICS` holds them by name. A pair on
which a metric has no value (silence, too short) raises Unmeasurable; no metric returns NaN.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from wavegen.errors import WavegenError

__all__ = ["METRICS", "Unmeasurable", "log_f0_rmse", "mcd", "multi_resolution_stft", "pesq", "stoi", "vuv_error"]

Wav = Shaped[Any, "..."]  # a numpy array or CPU tensor; `checked` refuses all but one axis

SLACK = 0.025  # s; more than the frame a vocoder may add or drop at the end
SHORTEST = 0.25  # s; PESQ's least length
MCD_RATE, MCD_FLOOR = 22050, 1e-5
F0_RATE, F0_HOP = 16000, 160  # 10 ms frames
F0_RANGE = 65.0, 500.0  # Hz
LONGEST = 20.0  # s; the package's C code has room for 50 utterances and crashes beyond, which takes at least 20 s
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop, window, in samples


class Unmeasurable(WavegenError):
    """The metric has no value on this pair of sounds; the others may have."""


def mcd(reference: Wav, synthesized: Wav, rate: int, *, align: bool = False) -> float:
    """Mel-cepstral distortion in dB, 0 for equal spectra; lower is better.

    Mean over frames of 10 sqrt(2) / ln 10 * ||c - c'||, with c the mel-cepstra 1 to 24 (0, the level, is left out):
    orthonormal DCT-II of the natural log of 80 Slaney mel bands of the magnitude spectrum, 0-8000 Hz, at 22,050 Hz
    with window 1024 and hop 256, floored at 1e-5. Divide by sqrt(40) = 6.32 to compare with cepstra normalised like
    SPTK's. Frames are compared one by one; `align=True` pairs them by dynamic time warping, for two takes of a text.

    Source: Kubichek (1993), "Mel-cepstral distance measure for objective speech quality assessment".
    """
    import librosa

    a, b = checked(reference, rate), checked(synthesized, rate)
    if not align:
        a, b = _trimmed(a, b, rate)
    a, b = (_cepstra(resampled(a, rate, MCD_RATE)), _cepstra(resampled(b, rate, MCD_RATE)))
    if align:
        path = librosa.sequence.dtw(a, b)[1]
        a, b = a[:, path[:, 0]], b[:, path[:, 1]]
    return float(10 * np.sqrt(2) / np.log(10) * np.linalg.norm(a - b, axis=0).mean())


def log_f0_rmse(reference: Wav, synthesized: Wav, rate: int) -> float:
    """Root mean square error of ln F0 over the frames voiced in both; ln 2 = 0.693 is an octave; lower is better.

    F0 by probabilistic YIN (Mauch and Dixon, 2014; librosa), 65-500 Hz, every 10 ms at 16 kHz, in steps of a fifth of
    a semitone (0.012): 0.2 s of computing for 10 s of sound, where steps of a tenth take 0.8 s.
    """
    (a, voiced), (b, also) = _pitches(reference, synthesized, rate)
    both = voiced & also
    if not both.any():
        raise Unmeasurable("no frame is voiced in both sounds; log-F0 error needs voiced speech")
    return float(np.sqrt(np.mean(np.log(a[both] / b[both]) ** 2)))


def vuv_error(reference: Wav, synthesized: Wav, rate: int) -> float:
    """Share of 10 ms frames (0 to 1) whose voicing decision differs; pitch as in `log_f0_rmse`; lower is better."""
    (_, voiced), (_, also) = _pitches(reference, synthesized, rate)
    return float(np.mean(voiced != also))


def multi_resolution_stft(reference: Wav, synthesized: Wav, rate: int) -> float:
    """Spectral convergence plus mean absolute difference of ln magnitude, averaged over three resolutions.

    ||S - S'||_F / ||S||_F + mean |ln S - ln S'| with power floored at 1e-7; windows 240, 600 and 1200 samples at the
    rate of the sounds; no unit, 0 for equal spectra; lower is better.

    Source: Yamamoto et al. (2020), "Parallel WaveGAN", eq. 4-6.
    """
    import librosa

    a, b = _pair(reference, synthesized, rate)
    _audible(a)
    distances = []
    for n_fft, hop, win in RESOLUTIONS:
        s, t = (np.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop, win_length=win)) for x in (a, b))
        logs = (np.log(np.maximum(x**2, 1e-7)) / 2 for x in (s, t))
        distances.append(np.linalg.norm(s - t) / np.linalg.norm(s) + np.abs(np.subtract(*logs)).mean())
    return float(np.mean(distances))


def pesq(reference: Wav, synthesized: Wav, rate: int) -> float:
    """Wide-band PESQ (MOS-LQO, 1.04 to 4.64) at 16 kHz, resampled by soxr; higher is better.

    Source: ITU-T P.862.2, by the package `pesq`. Sounds over 20 s have no value: it is made for sentences.
    """
    package = require("pesq")
    a, b = _pair(reference, synthesized, rate)
    _audible(a, b)
    if len(a) > LONGEST * rate:
        raise Unmeasurable(f"got {len(a) / rate:.1f} s of sound, PESQ takes at most {LONGEST} s; cut it into sentences")
    try:
        return float(package.pesq(16000, resampled(a, rate, 16000), resampled(b, rate, 16000), "wb"))
    except (package.NoUtterancesError, package.BufferTooShortError) as error:
        raise Unmeasurable("PESQ finds no utterance; it needs speech of at least a quarter of a second") from error


def stoi(reference: Wav, synthesized: Wav, rate: int) -> float:
    """Short-time objective intelligibility, about 0 to 1, at 10 kHz; higher is better.

    Source: Taal et al. (2011), by the package `pystoi`.
    """
    package = require("pystoi")
    a, b = _pair(reference, synthesized, rate)
    _audible(a)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(package.stoi(resampled(a, rate, 10000), resampled(b, rate, 10000), 10000))
        except RuntimeWarning as error:
            raise Unmeasurable("under 0.4 s of the sound is not silent; STOI needs more speech") from error


METRICS: Mapping[str, Callable[[Wav, Wav, int], float]] = {
    "pesq": pesq,
    "stoi": stoi,
    "mcd": mcd,
    "log_f0_rmse": log_f0_rmse,
    "vuv_error": vuv_error,
    "multi_resolution_stft": multi_resolution_stft,
}


def require(package: str) -> ModuleType:
    """Import a package of the extra `eval`, or say how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WavegenError(f'the package {package} is not installed; run `pip install "wavegen[eval]"`') from error


def checked(wav: Wav, rate: int) -> Float[np.ndarray, " T"]:
    """The sound as float64, or the reason why it is none."""
    sound = np.ascontiguousarray(wav, dtype=np.float64)
    if sound.ndim != 1:
        raise WavegenError(f"got a sound of shape {sound.shape}, expected one axis; measure channels one by one")
    if rate < 8000:
        raise WavegenError(f"got a rate of {rate} Hz, expected at least 8000 Hz; resample the sound")
    if not np.isfinite(sound).all():
        raise WavegenError("the sound contains NaN or infinity; synthesize it again")
    if len(sound) < SHORTEST * rate:
        raise Unmeasurable(f"got {len(sound) / rate:.3f} s of sound, expected at least {SHORTEST} s; use a longer clip")
    return sound


def _pair(reference: Wav, synthesized: Wav, rate: int) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    return _trimmed(checked(reference, rate), checked(synthesized, rate), rate)


def _trimmed(
    a: Float[np.ndarray, " S"], b: Float[np.ndarray, " R"], rate: int
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Both cut to the shorter."""
    if abs(len(a) - len(b)) > SLACK * rate:
        raise WavegenError(
            f"the reference lasts {len(a) / rate:.3f} s and the synthesis {len(b) / rate:.3f} s, expected at most "
            f"{SLACK} s between them; compare a sound with its own copy, or two takes with mcd(..., align=True)"
        )
    shorter = min(len(a), len(b))
    return a[:shorter], b[:shorter]


def _audible(*wavs: Float[np.ndarray, " T"]) -> None:
    if any(np.abs(wav).max() < 2**-15 for wav in wavs):
        raise Unmeasurable("the sound is silent: no sample reaches one 16-bit step; use a clip with speech")


def resampled(wav: Float[np.ndarray, " S"], rate: int, to: int) -> Float[np.ndarray, " T"]:
    import soxr

    return wav if rate == to else soxr.resample(wav, rate, to)


def _cepstra(wav: Float[np.ndarray, " T"]) -> Float[np.ndarray, "24 F"]:
    import librosa

    mel = librosa.feature.melspectrogram(
        y=wav, sr=MCD_RATE, n_fft=1024, hop_length=256, n_mels=80, fmin=0, fmax=8000, power=1
    )
    return librosa.feature.mfcc(S=np.log(np.maximum(mel, MCD_FLOOR)), n_mfcc=25)[1:]


Pitch = tuple[Float[np.ndarray, " F"], Bool[np.ndarray, " F"]]  # Hz, voiced


def _pitches(reference: Wav, synthesized: Wav, rate: int) -> tuple[Pitch, Pitch]:
    a, b = (resampled(wav, rate, F0_RATE).astype(np.float32) for wav in _pair(reference, synthesized, rate))
    return _pitch(a.tobytes()), _pitch(b.tobytes())


@lru_cache(maxsize=4)  # two metrics ask for the same pitch, and every system for the recording's
def _pitch(wav: bytes) -> Pitch:
    import librosa

    low, high = F0_RANGE
    samples = np.frombuffer(wav, np.float32)
    f0, voiced, _ = librosa.pyin(
        samples, fmin=low, fmax=high, sr=F0_RATE, frame_length=1024, hop_length=F0_HOP, resolution=0.2
    )
    return f0, voiced
