"""A latent without a decoder: as informative about the utterance as it can be, and distributed as its prior.

    minimise  - I(x; z) - clusters * I(y; y') + beta KL(q(z | x) || p(z))

Mutual information is bounded from below by telling clips apart: of a batch of B, each looked at twice through random
distortions that leave what is said as it is, which two latents are of the same clip (van den Oord et al., "Contrastive
predictive coding", 2018, eq. 4 and 5; prior matching in place of a decoder as in Ji et al., "A decoder-free variational
deep embedding", 2021). With a mixture prior the component y should tell the same of both looks, and of the clips whose
latents are nearest, y' (Ji, Henriques and Vedaldi, "Invariant information clustering", 2019, eq. 3; neighbours as in
Dwibedi et al., "With a little help from my friends", 2021): the clusters are learned in one step with the latent.
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
from wavegen.latents.posteriors import Diagonal
from wavegen.latents.priors import Mixed

__all__ = ["InfoMax", "agreement", "distorted"]


@dataclass(eq=False, repr=False)
class InfoMax(Latent):
    """A latent trained by mutual information and prior matching; it encodes, clusters and samples, but decodes nothing.

    `temperature` divides the cosine of two latents' projections, by which clips are told apart; `clusters` is the
    weight of what components tell, `neighbours` the number of nearest clips of the batch that they are compared with.
    """

    beta: float = 0.003
    temperature: float = 0.2
    clusters: float = 5.0
    neighbours: int = 2

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"latent": 4, "channels": 16, "layers": 2, "features": 16, "hidden": (16,), "groups": 2},
        "digits": {"latent": 16, "layers": 3, "prior": "mixture"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.critic = nn.Sequential(
            nn.Linear(self.latent, self.features), nn.SiLU(), nn.Linear(self.features, self.features)
        )
        for diagonal in (part for part in self.law.modules() if isinstance(part, Diagonal)):
            with torch.no_grad():  # clips cannot be told apart by latents that are mostly noise, and then stay so
                diagonal.net.weight[: self.latent] *= 5
                diagonal.net.bias[self.latent :] -= 2

    def conditions(self) -> Iterator[tuple[str, str, bool]]:
        yield from super().conditions()
        yield "temperature", "a positive number", self.temperature > 0
        yield "clusters neighbours", "0 or more", min(self.clusters, self.neighbours) >= 0

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is minimised, and in nats per clip: bounds on the information of latent and component, and the KL.

        "mel" (B, M, F), "frames" (B,), "label" (B,) if the model has labels, and "anneal", see `collapse`.
        """
        mel, frames, label = batch["mel"], batch["frames"], batch.get("label")
        seen = [self.featured(distorted(mel, frames, gap=self.mel_mean), frames, label) for _ in range(2)]
        with torch.no_grad():
            undistorted = self.featured(mel, frames, label)
        with torch.autocast(mel.device.type, enabled=False):
            return self._objective(seen, undistorted, label, batch.get("anneal", 1.0))

    def _objective(
        self,
        seen: list[Tensor],
        undistorted: Float[Tensor, "B H"],
        label: Int64[Tensor, " B"] | None,
        anneal: Float[Tensor, ""] | float,
    ) -> dict[str, Tensor]:
        """The loss, given the features of both looks and of the clips themselves."""
        looks = [self.drawn(features, self._noise(features), label) for features in seen]
        first, second = (functional.normalize(self.critic(look.z), dim=1) for look in looks)
        scores, right = first @ second.T / self.temperature, torch.arange(len(first), device=first.device)
        missed = 0.5 * (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right))
        together = self._together(looks[0].z, looks[1].z, undistorted)
        scalars = {
            "loss": missed - self.clusters * together + sum(self.pressure(look, anneal) for look in looks) / 2,
            "information": math.log(len(first)) - missed.detach(),
            "clusters": together.detach(),
            "kl": (looks[0].kl + looks[1].kl).detach().mean() / 2,
        }
        if self.training:
            return scalars
        return scalars | self.health(undistorted, self.drawn(undistorted, self._noise(undistorted), label))

    def _noise(self, features: Float[Tensor, "B H"]) -> Float[Tensor, "B D"]:
        return torch.randn(len(features), self.latent, device=features.device)

    def _together(
        self, first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], features: Float[Tensor, "B H"]
    ) -> Float[Tensor, ""]:
        """What the component of one look tells of the other's and of its neighbours', in nats; 0 without any."""
        if not isinstance(self.prior_law, Mixed) or not self.clusters:
            return first.new_zeros(())
        p, q = (self.prior_law.responsibilities(self.levels(z)[0]) for z in (first, second))
        with torch.no_grad():
            centre = functional.normalize(self.critic(self.law.inverse(torch.zeros_like(first), features)[0]), dim=1)
            near = (centre @ centre.T).fill_diagonal_(-math.inf).topk(min(self.neighbours, len(p) - 1), dim=1).indices
        return torch.stack([agreement(p, q), *(agreement(p, q[nearest]) for nearest in near.T)]).mean()


def agreement(p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mutual information in nats of two choices among K, given the probabilities of both for each of B clips."""
    joint = p.T @ q / len(p)
    joint = ((joint + joint.T) / 2).clamp(min=1e-9)
    return (joint * (joint.log() - joint.sum(0).log() - joint.sum(1, keepdim=True).log())).sum()


def distorted(mel: Float[Tensor, "B M F"], frames: Int64[Tensor, " B"], *, gap: float = -5.0) -> Float[Tensor, "B M F"]:
    """Each utterance with its time bent and its pitch and formants moved, coloured, noisy, and with gaps.

    Numbers within a gap are `gap`; lengths are kept. The noise is from torch.
    """
    items, bins, length = mel.shape

    def uniform(least: float, most: float, *shape: int) -> Tensor:
        return least + (most - least) * torch.rand(items, *shape, device=mel.device)

    def hidden(size: int, width: int) -> Tensor:  # (B, size), a stretch of it
        start, place = uniform(0, size, 1), torch.arange(size, device=mel.device)
        return (place >= start) & (place < start + width)

    across, along = torch.linspace(-1, 1, bins, device=mel.device), torch.linspace(-1, 1, length, device=mel.device)
    pace = functional.interpolate(torch.exp(0.8 * torch.randn_like(mel[:, :1, :1].expand(-1, 1, 5))), length,
                                  mode="linear", align_corners=True)  # fmt: skip
    clock = pace.squeeze(1).cumsum(1)
    share = torch.arange(1, length + 1, device=mel.device) / frames.unsqueeze(1)
    spent = clock.gather(1, frames.unsqueeze(1) - 1)
    begin, end = uniform(-0.08, 0.1, 1), uniform(0.9, 1.08, 1)
    bent = torch.where(share <= 1, begin + (end - begin) * clock / spent, 1.0).clamp(0, 1)
    x = (2 * bent * (frames.unsqueeze(1) - 1) + 1) / length - 1
    y = (across + 1) * uniform(0.88, 1.12, 1) - 1 + uniform(-0.03, 0.03, 1)
    grid = torch.stack([x.unsqueeze(1).expand(-1, bins, -1), y.unsqueeze(2).expand(-1, -1, length)], dim=-1)
    moved = functional.grid_sample((mel - gap).unsqueeze(1), grid, padding_mode="border", align_corners=False)
    coloured = moved.squeeze(1) * uniform(0.7, 1.3, 1, 1) + uniform(-1, 1, 1, 1)
    coloured = coloured + uniform(-1, 1, 1, 1) * across.unsqueeze(1) + uniform(-1, 1, 1, 1) * along
    noisy = coloured + 0.5 * torch.randn_like(mel)
    gaps = hidden(bins, 8).unsqueeze(2) | hidden(bins, 8).unsqueeze(2) | hidden(length, 4).unsqueeze(1)
    return gap + noisy.masked_fill(gaps, 0.0)
