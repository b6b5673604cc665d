"""Spectrograms side by side: a column for each clip, a row for the recording and for each system."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from wavegen.atomic import write_aside
from wavegen.evaluation.metrics import Wav

if TYPE_CHECKING:
    from wavegen.evaluation.report import Take

__all__ = ["draw"]

DEPTH = 80  # dB below the loudest bin of the recordings
HIGHEST = 11025  # Hz


def draw(takes: Sequence["Take"], path: Path | str) -> None:
    """Write a PNG of the recordings of `takes` and, below each, what every system made of it, in one scale of dB.

    Raises:
        WavegenError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    recordings = {take.id: take for take in takes}
    copies = [take for take in takes if take.synthesized is not take.reference]
    rows = ["recording", *dict.fromkeys(take.system for take in copies)]
    wavs = {("recording", take.id): take.reference for take in takes}
    wavs |= {(take.system, take.id): take.synthesized for take in copies}
    levels = {key: _level(wav) for key, wav in wavs.items()}
    top = max(levels["recording", id].max() for id in recordings)
    # Not through pyplot, which keeps global state and may open windows.
    figure = Figure(figsize=(1.5 + 5.5 * len(recordings), 0.6 + 2.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(recordings), squeeze=False, sharex="col", sharey=True)
    image = None
    for (row, system), (column, take) in ((r, c) for r in enumerate(rows) for c in enumerate(recordings.values())):
        panel, level = axes[row, column], levels.get((system, take.id))
        if level is None:
            panel.set_axis_off()
            continue
        extent = (0, len(wavs[system, take.id]) / take.rate, 0, take.rate / 2000)
        image = panel.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=top - DEPTH, vmax=top)
        panel.set_title(f"{take.id}: {system}", fontsize="medium")
        panel.set_ylim(0, min(take.rate / 2, HIGHEST) / 1000)
    for panel in axes[-1]:
        panel.set_xlabel("time (s)")
    for panel in axes[:, 0]:
        panel.set_ylabel("frequency (kHz)")
    if image is not None:
        figure.colorbar(image, ax=axes, label="level (dB)", fraction=0.03)
    with write_aside(path) as aside:
        figure.savefig(aside, dpi=100)


def _level(wav: Wav) -> Float[np.ndarray, "N F"]:
    """The power spectrogram in dB."""
    import librosa

    samples = np.asarray(wav, dtype=np.float32)
    return 20 * np.log10(np.maximum(np.abs(librosa.stft(samples, n_fft=1024, hop_length=256)), 1e-5))
