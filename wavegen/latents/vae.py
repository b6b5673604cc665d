"""The variational autoencoder of utterances (Kingma and Welling, 2014; Rezende et al., 2014).

    log p(x) >= E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z))

The likelihood of a mel is a Gaussian for every bin of every frame, mean and standard deviation both by the decoder, the
latter never below `FLOOR`; nats are of densities over mels in the units of their convention. With `content`, which is
read off the mel itself, they are a score that compares models of equal content, and no bound of log p(x).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from wavegen.errors import WavegenError
from wavegen.latents.base import Latent
from wavegen.latents.networks import Decoder, lasting

__all__ = ["VAE"]

FLOOR = 0.1  # of standard deviations, in the mel's units (nearly 1 dB): where all clips agree nats must stay finite


@dataclass(eq=False, repr=False)
class VAE(Latent):
    """A latent for each utterance and a decoder that gives mels for it.

    The decoder has `depth` gated layers. With `history` it sees the frames before each, and so is strong enough to do
    without a latent. With `content` bands it is told, frame by frame, what is said but not by whom: the mel in so many
    broad bands, each standardised over the utterance; then the latent holds the rest, such as the voice.
    """

    depth: int = 4
    history: bool = False
    content: int = 0

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"latent": 4, "channels": 16, "layers": 2, "depth": 2, "features": 16, "hidden": (16,), "groups": 2},
        "digits": {"latent": 16, "layers": 3, "depth": 3},
        "speakers": {"content": 12, "channels": 96, "features": 96, "layers": 6, "depth": 6},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decoder = Decoder(
            self.latent + len(self.labels), self.mel.bins, channels=self.channels, layers=self.depth,
            stride=self.stride, cond=self.content, history=self.history,
        )  # fmt: skip

    def conditions(self) -> Iterator[tuple[str, str, bool]]:
        yield from super().conditions()
        yield "depth", "a positive number", self.depth > 0
        yield "content", f"0 to the {self.mel.bins} bins of the mel", 0 <= self.content <= self.mel.bins

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The negative ELBO with its parts in nats per clip, and what is minimised, per number of the mel.

        "mel" (B, M, F), "frames" (B,), "label" (B,) if the model has labels, and "anneal", see `collapse`.
        """
        mel, frames = batch["mel"], batch["frames"]
        features = self.featured(mel, frames, batch.get("label"))
        noise = torch.randn(len(mel), self.latent, device=mel.device)
        drawn = self.drawn(features, noise, batch.get("label"))
        missed = -self.log_likelihood(mel, frames, drawn.z, label=batch.get("label")).mean()
        numbers = frames.float().mean() * self.mel.bins
        kl = drawn.kl.detach().mean()
        scalars = {
            "loss": (missed + self.pressure(drawn, batch.get("anneal", 1.0))) / numbers,
            "nats": missed.detach() + kl,
            "reconstruction": missed.detach(),
            "kl": kl,
        }
        return scalars if self.training else scalars | self.health(features, drawn)

    def log_likelihood(
        self,
        mel: Float[Tensor, "B M F"],
        frames: Int64[Tensor, " B"],
        z: Float[Tensor, "B D"],
        *,
        label: Int64[Tensor, " B"] | None = None,
    ) -> Float[Tensor, " B"]:
        """log p(mel | z) of each utterance, in nats."""
        mean, std = self._law_of(z, frames, mel.shape[-1], label, self.contents(mel, frames), mel)
        apart = -0.5 * ((mel - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        return (apart.sum(1) * lasting(frames, mel.shape[-1])).sum(1)

    @torch.no_grad()
    def bound(self, batch: Mapping[str, Tensor], *, k: int = 500) -> tuple[Tensor, Tensor]:
        """ELBO and importance-weighted bound of each clip in nats, both from the same k draws.

        log p(x) >= E log 1/k sum_i p(x, z_i) / q(z_i | x) (Burda et al., 2016, eq. 8).

        Raises:
            WavegenError: no draw, or a plain autoencoder, which has no likelihood.
        """
        if k < 1 or self.posterior == "point":
            raise WavegenError(f"got {k} draws of a {self.posterior} posterior, expected 1 or more of a law with noise")
        mel, frames, label = batch["mel"], batch["frames"], batch.get("label")
        features = self.featured(mel, frames, label)
        weights = []
        for _ in range(k):
            drawn = self.drawn(features, torch.randn(len(mel), self.latent, device=mel.device), label)
            weights.append(self.log_likelihood(mel, frames, drawn.z, label=label) + drawn.log_p - drawn.log_q)
        log_w = torch.stack(weights)
        return log_w.mean(0), log_w.logsumexp(0) - math.log(k)

    @torch.no_grad()
    def decode(
        self,
        z: Float[Tensor, "B D"],
        frames: int,
        *,
        label: Int64[Tensor, " B"] | None = None,
        content: Float[Tensor, "B K F"] | None = None,
    ) -> Float[Tensor, "B M F"]:
        """The mean mel of so many frames for each latent; with history, each frame given the means before it.

        Raises:
            WavegenError: a latent of another size, or a label or content that is missing or does not fit.
        """
        self._check_decoded(z, frames, content)
        counts = torch.full((len(z),), frames, device=z.device)
        if not self.history:
            return self._law_of(z, counts, frames, label, content, None)[0]
        mel = z.new_zeros(len(z), self.mel.bins, frames)
        for now in range(0, frames, self.stride):
            ahead = slice(now, now + self.stride)
            mel[..., ahead] = self._law_of(z, counts, frames, label, content, mel)[0][..., ahead]
        return mel

    def contents(
        self, mel: Float[Tensor, "B M F"], frames: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B K F"] | None:
        """What is said, frame by frame: broad bands of the mel, standardised over each utterance; None without."""
        if not self.content:
            return None
        frames = self._frames(mel, frames)
        here = lasting(frames, mel.shape[-1]).unsqueeze(1)
        bands = functional.adaptive_avg_pool1d(mel.mT, self.content).mT * here
        count = frames.view(-1, 1, 1)
        apart = (bands - bands.sum(2, keepdim=True) / count) * here
        return apart / (apart.square().sum(2, keepdim=True) / count + 1e-2).sqrt()

    def _law_of(
        self,
        z: Tensor,
        frames: Tensor,
        length: int,
        label: Tensor | None,
        content: Tensor | None,
        mel: Tensor | None,
    ) -> tuple[Float[Tensor, "B M F"], Float[Tensor, "B M F"]]:
        """Mean and standard deviation of every number, in the mel's units."""
        given = torch.cat([z, self.classes(len(z), label).to(z.device)], dim=1)
        before = None if mel is None else (mel - self.mel_mean) / self.mel_std
        mean, width = self.decoder(given, frames, content, before, length)
        return self.mel_mean + self.mel_std * mean, FLOOR + functional.softplus(width)

    def _check_decoded(self, z: Tensor, frames: int, content: Tensor | None) -> None:
        self.check_latent(z)
        if frames < 1:
            raise WavegenError(f"got {frames} frames to decode, expected at least 1")
        expected = (len(z), self.content, frames) if self.content else None
        given = None if content is None else tuple(content.shape)
        if given != expected:
            raise WavegenError(
                f"got content of shape {given}, expected {expected}; take `contents` of a clip's mel, cut to the frames"
            )
        if content is not None and not content.isfinite().all():
            raise WavegenError("got content with NaN or infinite values, expected finite ones; compute it again")
