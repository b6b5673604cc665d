"""Autoregressive maps: every coordinate is shifted and scaled by what a network makes of those before it.

Of points (B, D). Run forwards, with all coordinates at once, it is the step of a masked autoregressive flow
(Papamakarios et al., "MAF", 2017, eq. 3 and 4); `Inverse(Autoregressive(...))` is that of an inverse autoregressive
flow (Kingma et al., "IAF", 2016, eq. 10), which samples at once and takes D passes for a density.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.flows.base import Cond, Mapped
from wavegen.flows.coupling import Learned

__all__ = ["Autoregressive"]


class Autoregressive(Learned):
    """y_i = (x_i - m_i) exp(-s_i), with m and s from `net(x, cond)`, in which i sees coordinates before i alone.

    Such a network is `MLP(D, 2 * D, hidden=..., causal=True)`; s stays within (-bound, bound). The inverse takes D
    passes through it.

    Raises:
        WavegenError: a network whose output does not fit the points.
    """

    def coefficients(self, x: Float[Tensor, "B C *S"], cond: Cond) -> tuple[Tensor, Tensor]:
        mean, log_std = self.ask(x, cond, x.shape[1])
        return -mean * (-log_std).exp(), -log_std

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        x, logdet, place = torch.zeros_like(y), y.new_zeros(len(y)), torch.arange(y.shape[1], device=y.device)
        for now in range(y.shape[1]):
            shift, log_scale = self.coefficients(x, cond)
            x = torch.where(place == now, (y - shift) * (-log_scale).exp(), x)
            logdet = logdet - log_scale[:, now]
        return x, logdet
