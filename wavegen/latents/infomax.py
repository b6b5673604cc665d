"""A latent without a decoder: as informative about the utterance as it can be, and distributed as its prior.

    minimise  -I(x; z) + beta KL(q(z | x) || p(z))

The mutual information is bounded from below by telling clips apart: of a batch of B, each looked at twice through
random distortions that leave what is said as it is, which two latents are of the same clip (van den Oord et al.,
"Contrastive predictive coding", 2018, eq. 4 and 5; Ji et al., "A decoder-free variational deep embedding", 2021, who
match a mixture prior so, and cluster in one step).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from wavegen.latents.base import Latent

__all__ = ["InfoMax", "distorted"]


@dataclass(eq=False, repr=False)
class InfoMax(Latent):
    """A latent trained by mutual information and prior matching; it encodes, clusters and samples, but decodes nothing.

    `temperature` divides the cosine of two latents' projections, by which clips are told apart.
    """

    temperature: float = 0.1

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"latent": 4, "channels": 16, "layers": 2, "features": 16, "hidden": (16,), "groups": 2},
        "digits": {"layers": 3, "prior": "mixture"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.critic = nn.Sequential(
            nn.Linear(self.latent, self.features), nn.SiLU(), nn.Linear(self.features, self.features)
        )

    def conditions(self) -> Iterator[tuple[str, str, bool]]:
        yield from super().conditions()
        yield "temperature", "a positive number", self.temperature > 0

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Minus the bound on the information, at most log B nats, plus the KL, in nats per clip.

        "mel" (B, M, F), "frames" (B,), "label" (B,) if the model has labels, and "anneal", see `collapse`.
        """
        mel, frames, label = batch["mel"], batch["frames"], batch.get("label")
        views, features = [], mel.new_zeros(0)
        for _ in range(2):
            features = self.featured(*distorted(mel, frames), label)
            views.append(self.drawn(features, torch.randn(len(mel), self.latent, device=mel.device), label))
        first, second = (functional.normalize(self.critic(view.z), dim=1) for view in views)
        scores = first @ second.T / self.temperature
        right = torch.arange(len(mel), device=mel.device)
        missed = 0.5 * (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right))
        anneal = batch.get("anneal", 1.0)
        pressure = 0.5 * (self.pressure(views[0], anneal) + self.pressure(views[1], anneal))
        told, kl = math.log(len(mel)) - missed.detach(), 0.5 * (views[0].kl + views[1].kl).detach().mean()
        scalars = {"loss": pressure + missed, "information": told, "kl": kl}
        return scalars if self.training else scalars | self.health(features, views[1])


def distorted(
    mel: Float[Tensor, "B M F"], frames: Int64[Tensor, " B"]
) -> tuple[Float[Tensor, "B M F"], Int64[Tensor, " B"]]:
    """Each utterance at another speed, pitch and loudness, coloured, with a gap in time and one in frequency.

    Times and bins are stretched by up to a fifth and a tenth; the noise is from torch.
    """
    items, bins, length = len(mel), mel.shape[1], mel.shape[2]

    def uniform(least: float, most: float, *shape: int) -> Tensor:
        return least + (most - least) * torch.rand(items, *shape, device=mel.device)

    speed, warp = uniform(0.8, 1.25), uniform(0.9, 1.1)
    after = (frames / speed).round().long().clamp(min=1, max=length)
    line = (torch.arange(length, device=mel.device) * speed.unsqueeze(1)).clamp(max=frames.unsqueeze(1) - 1)
    band = torch.arange(bins, device=mel.device) * warp.unsqueeze(1)
    x = (2 * line + 1) / length - 1
    y = (2 * band + 1) / bins - 1
    grid = torch.stack([x.unsqueeze(1).expand(-1, bins, -1), y.unsqueeze(2).expand(-1, -1, length)], dim=-1)
    lowest = mel.amin()
    bent = functional.grid_sample((mel - lowest).unsqueeze(1), grid, align_corners=False).squeeze(1) + lowest
    tilt = uniform(-1, 1, 1, 1) + uniform(-1, 1, 1, 1) * torch.linspace(-1, 1, bins, device=mel.device).unsqueeze(1)
    seen = bent + tilt * (bent > lowest + 0.5)
    start = (uniform(0, 1) * bins).unsqueeze(1)
    place = torch.arange(bins, device=mel.device)
    hidden = (place >= start) & (place < start + 10)
    return seen.masked_fill(hidden.unsqueeze(2), float(mel.mean())), after
