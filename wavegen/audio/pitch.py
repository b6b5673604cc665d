"""The pitch of a mel, where there is no sound to ask."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError

__all__ = ["pitch_of_mel"]

HARMONICS = np.arange(1, 8)
QUIET = -11.0  # log amplitude below which nothing is heard


def pitch_of_mel(
    mel: Float[Tensor, "B M F"], spec: MelSpec, *, fmin: float = 70.0, fmax: float = 320.0
) -> Float[Tensor, " B"]:
    """The fundamental frequency in Hz at which harmonics stand out most from what lies between them.

    Of the mean spectrum, in log amplitude, of the louder three fifths of the frames: for voices of little melody, and
    for mels that a decoder gives. Bands must be narrower than the pitch: 37 Hz in most conventions. NaN where
    no harmonics stand out.

    Raises:
        WavegenError: a mel that is not (B, M, F) of the convention's bins.
    """
    if mel.ndim != 3 or mel.shape[1] != spec.bins:
        raise WavegenError(f"got a mel of shape {tuple(mel.shape)}, expected (batch, {spec.bins}, frames)")
    filters = spec.filters()
    hertz = torch.linspace(0, spec.rate / 2, len(filters))
    centres = (hertz @ filters / filters.sum(0).clamp(min=1e-12)).numpy()
    candidates = np.geomspace(fmin, fmax, 300)
    found = []
    for levels in spec.amplitude(mel).clamp(min=1e-12).log().clamp(min=QUIET).cpu().double().numpy():
        loud = levels.mean(0) >= np.quantile(levels.mean(0), 0.4)
        spectrum = levels[:, loud].mean(1)

        def at(places: Float[np.ndarray, " K"], spectrum: Float[np.ndarray, " M"] = spectrum) -> np.ndarray:
            return np.interp(places, centres, spectrum)

        score = sum(
            at(k * candidates) - (at((k - 0.5) * candidates) + at((k + 0.5) * candidates)) / 2 for k in HARMONICS
        )
        found.append(float(candidates[np.argmax(score)]) if np.max(score) > 1e-6 else np.nan)
    return torch.tensor(found)
