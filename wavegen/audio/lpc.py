"""Linear prediction read off a mel spectrogram: the part of speech that needs no learning.

A mel spectrogram already tells the spectral envelope and the level of every moment. The all-pole filter with that
envelope turns sound into an excitation that is white and of unit variance wherever the mel is right, and back:

    u[t] = (x[t] - sum_k a[k] x[t - k]) / g        (whiten; k = 1..order)
    x[t] = sum_k a[k] x[t - k] + g u[t]            (color)

Both the coefficients a and the gain g follow from the mel alone, so x -> u is an invertible map given the mel, and a
density of u is a density of x: log p(x[t]) = log p(u[t]) - log g. A model that follows u is the excitation vocoder of
Song et al., "ExcitNet vocoder" (2019); that x is then predicted linearly is Hwang et al., "LP-WaveNet" (2018).
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from wavegen.audio.mel import MelSpec

__all__ = ["excitation", "linear_prediction", "whiten"]

FLOOR = 1e-10  # power of x below which nothing is modelled: about 10 dB under the step of a 16-bit recording
CORRECTION = 1e-4  # of the power, added as white noise (-40 dB): keeps the filters well conditioned


def excitation(
    wav: Float[Tensor, "B T"], mel: Float[Tensor, "B M F"], spec: MelSpec, order: int
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """The excitation u of a sound x by the linear prediction of its mel, and log |du / dx| of each sample.

    Order 0 predicts nothing: u is x.
    """
    if not order:
        return wav, torch.zeros_like(wav)
    coefficients, gain = linear_prediction(mel, spec, order)
    held = wav.shape[1] // gain.shape[1]
    return whiten(wav, coefficients, gain), -gain.log().repeat_interleave(held, dim=1)


def linear_prediction(
    mel: Float[Tensor, "B M F"], spec: MelSpec, order: int, *, parts: int = 4
) -> tuple[Float[Tensor, "B N order"], Float[Tensor, "B N"]]:
    """Predictor coefficients and gain, `parts` to a frame (N = parts * F), each held for `hop / parts` samples.

    Frame f is taken to lie in the middle of samples f * hop to (f + 1) * hop, as it does with centring "middle". The
    autocorrelation is linear in the band powers and is interpolated linearly between frame centres; a mixture of
    autocorrelations is one, so every filter is stable (Levinson-Durbin, float64).
    """
    power = spec.amplitude(mel.double()).square().transpose(1, 2)  # (B, F, M)
    correlation = (power @ autocorrelation_basis(spec, order).to(mel.device)).transpose(1, 2)
    correlation = functional.interpolate(correlation, scale_factor=parts, mode="linear").transpose(1, 2)
    correlation[..., 0] += CORRECTION * correlation[..., 0] + FLOOR
    coefficients, error = levinson(correlation)
    return coefficients.float(), error.sqrt().float()


def levinson(correlation: Float[Tensor, "*N lags"]) -> tuple[Float[Tensor, "*N order"], Float[Tensor, "*N"]]:
    """The best linear predictor for an autocorrelation (lags = order + 1), and its error power."""
    error = correlation[..., 0]
    a = correlation[..., :0]
    for k in range(1, correlation.shape[-1]):
        future = (a * correlation[..., 1:k].flip(-1)).sum(-1)
        reflection = ((correlation[..., k] - future) / error).unsqueeze(-1)
        a = torch.cat([a - reflection * a.flip(-1), reflection], dim=-1)
        error = error * (1 - reflection.squeeze(-1).square())
    return a, error


def whiten(
    wav: Float[Tensor, "B T"],
    coefficients: Float[Tensor, "B N order"],
    gain: Float[Tensor, "B N"],
) -> Float[Tensor, "B T"]:
    """The excitation of a sound; the samples before the first count as silence."""
    (batch, samples), (_, count, order) = wav.shape, coefficients.shape
    held = samples // count
    past = functional.pad(wav, (order, 0)).unfold(1, held + order, held)  # (B, N, held + order), overlapping
    error_filter = functional.pad(-coefficients.flip(-1), (0, 1), value=1.0)  # x[t] minus its prediction
    windows = past.unfold(2, order + 1, 1)  # (B, N, held, order + 1)
    with torch.autocast(wav.device.type, enabled=False):  # rounding the sound to bfloat16 would drown its excitation
        excitation = (windows @ error_filter.unsqueeze(-1)).squeeze(-1) / gain.unsqueeze(-1)
    return excitation.reshape(batch, samples)


@lru_cache(maxsize=16)
def autocorrelation_basis(spec: MelSpec, order: int) -> Float[Tensor, "M lags"]:
    """The linear map from squared band amplitudes to the autocorrelation of the sound (Wiener-Khinchin)."""
    filters = spec.filters().double().numpy()  # (n_fft / 2 + 1, M)
    frequencies = np.linspace(0, spec.rate / 2, len(filters))
    total = filters.sum(0)
    centres = frequencies @ filters / total
    # A band's power spread over the bins: linear between band centres, flat beyond the first and the last.
    spread = np.stack([np.interp(frequencies, centres, row) for row in np.eye(spec.bins)])
    angle = np.pi * np.outer(np.arange(len(filters)), np.arange(order + 1)) / (len(filters) - 1)
    weight = np.full(len(filters), 1.0 / (len(filters) - 1))
    weight[[0, -1]] /= 2  # trapezoid rule over [0, pi]
    # White noise of variance 1 has the energy sum(window^2) in a bin; its magnitude, a Rayleigh variable, has a mean
    # whose square is pi / 4 of that. A band sums either over its bins.
    unit = float(torch.hann_window(spec.win).double().square().sum())
    level = unit * (np.pi / 4 * total**2 if spec.power == 1 else total)
    return torch.from_numpy((spread * weight) @ np.cos(angle) / level[:, None])
