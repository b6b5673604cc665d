"""Whistles: the steady tones at k * rate / group of a vocoder that makes its samples in groups.

A group's samples come from different channels of the network; where these differ by a constant, the sound has a line at
a multiple of rate / group. Speech has a pitch that moves and pauses, so a line is sought where all else is quiet: of
all frames, the tenth in which its neighbourhood is weakest. A tone that is always there keeps its level in them, while
a mean over all frames would take harmonics of the voice for lines: it finds -45 dB in recordings that have none.
"""

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from wavegen.errors import WavegenError
from wavegen.evaluation.metrics import Unmeasurable, Wav, checked

__all__ = ["tones"]

WINDOW = 0.093  # s; 2048 samples at 22,050 Hz, which tells a line from the harmonics of a voice
APART = 16  # bins between two lines, at least
LINE, NEAR = 3, 24  # bins: nearer is the line itself, in a Hann window; farther is not its neighbourhood
QUIETEST = 0.1  # share of the frames
LEAST = 40.0  # Hz between two lines; below, they are harmonics of a voice rather than whistles
FLOOR = -120.0  # dB
AT_ONCE = 1024  # frames; bounds the memory of a ten-minute sound


def tones(wav: Wav, rate: int, *, group: int = 8) -> Float[np.ndarray, " K"]:
    """Level in dB of the steady tone at k * rate / group for k = 1 ... group // 2, relative to the power of the sound.

    The power by which a line stands out of the median of the bins around it, in a mean over the frames that are
    quietest around it; -120 or more. A steady tone reads its own level, also under speech; clips of speech itself read
    -77 dB at their worst on average for groups of 8, -72 for 16 and -50 for 128, whose lines lie as close as the
    harmonics of a voice: compare a vocoder with the recordings.

    Raises:
        WavegenError: NaN, not one axis, a rate under 8 kHz, or a group under 2.
        Unmeasurable: too short, or a group of more than rate / 40 samples.
    """
    sound = checked(wav, rate)
    if not 2 <= group <= rate / LEAST:
        kind = WavegenError if group < 2 else Unmeasurable  # a vocoder may have such groups; they cannot whistle
        most = int(rate / LEAST)
        raise kind(f"got groups of {group} samples at {rate} Hz, expected 2 to {most} samples; correct either")
    apart = max(APART, round(WINDOW * rate / group))
    power = _power(sound, apart * group)  # in windows of whole groups, each line falls on a bin of its own
    excess = np.array([_excess(power, k * apart) for k in range(1, group // 2 + 1)])
    if group % 2 == 0:
        excess[-1] /= 2  # the Nyquist frequency, which has no negative twin
    relative = excess / max(float(np.mean(sound**2)), 1e-30)
    return 10 * np.log10(np.maximum(relative, 10 ** (FLOOR / 10)))


def _power(sound: Float[np.ndarray, " T"], size: int) -> Float[np.ndarray, "F N"]:
    """Spectra of the frames that are not digital silence, in which a sine of power P has a bin of P."""
    if len(sound) < size:
        raise Unmeasurable(f"got {len(sound)} samples, expected at least {size} to tell the lines; use a longer clip")
    window = np.hanning(size + 1)[:-1]
    frames = sliding_window_view(sound, size)[:: size // 4]
    parts = (np.fft.rfft(frames[i : i + AT_ONCE] * window) for i in range(0, len(frames), AT_ONCE))
    power = np.concatenate([(np.abs(part) ** 2).astype(np.float32) for part in parts])
    return power[power.any(axis=1)] * (2 / window.sum() ** 2)


def _excess(power: Float[np.ndarray, "F N"], line: int) -> float:
    """By how much a bin exceeds the median of its neighbours, in the frames in which these are weakest."""
    if not len(power):
        return 0.0
    near = np.arange(max(line - NEAR, 1), min(line + NEAR + 1, power.shape[1]))
    near = near[np.abs(near - line) >= LINE]
    quietest = np.argsort(power[:, near].mean(1))[: max(1, round(QUIETEST * len(power)))]
    return float(power[quietest, line].mean() - np.median(power[np.ix_(quietest, near)].mean(0)))
