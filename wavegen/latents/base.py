"""The contract of a latent-variable model of utterances: an encoder, a posterior, a prior, and the KL between them."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.flows.base import Chain, Transform, gaussian
from wavegen.latents.collapse import ALARM, Collapse, active_units, information
from wavegen.latents.networks import Encoder
from wavegen.latents.posteriors import Diagonal, Gaussian, Grouped, divergence, glow_steps, iaf_steps
from wavegen.latents.priors import Flowed, Mixed, Mixture, Prior, Vamp
from wavegen.model import Model

__all__ = ["Drawn", "Latent"]

PSEUDO_FRAMES = 32  # length of the pseudo-inputs of a VampPrior


@lru_cache
def silence(spec: MelSpec) -> Float[Tensor, " M"]:
    """The mel of digital zero."""
    return spec(torch.zeros(1, spec.n_fft + spec.hop))[0, :, 0]


class Drawn(NamedTuple):
    """A latent drawn from the posterior of each item, and nats: log q(z | x), log p(z), and the KL between the two.

    The KL is in closed form where there is one, then also of each coordinate (`each`); else log q - log p.
    """

    z: Float[Tensor, "B D"]
    log_q: Float[Tensor, " B"]
    log_p: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]
    each: Float[Tensor, "B D"] | None


@dataclass(eq=False, repr=False)
class Latent(Model):
    """A latent vector for every utterance.

    Sizes: `latent` numbers; an encoder of `layers` gated layers of `channels` over steps of `stride` frames, which ends
    in `features`. Mels enter as `(mel - mel_mean) / mel_std`.

    Posteriors: "diagonal"; "iaf" and "glow" with `steps` flow steps of networks with `hidden` units on top of it;
    "hierarchical", `groups` groups from coarse to fine, each relative to the prior's law of it given those before
    (Vahdat and Kautz, "NVAE", 2020, eq. 3); "point", which draws no noise: a plain autoencoder.

    Priors: "normal"; "conditional", a Gaussian for each of `labels`; "mixture" of `components` Gaussians, which
    clusters; "vamp", the posteriors of `components` pseudo-inputs; "flow", of `steps` Glow steps.

    `labels` are names of classes; with them, encoder, decoder and a conditional prior are told the class.

    Against collapse: `beta` times the KL is minimised; above `free_bits` nats of each coordinate, averaged over the
    batch, if set (Kingma et al., "IAF", 2016, eq. 15); or the distance of the KL from `capacity` nats (Burgess et al.,
    2018); `norm` and `rate` as in `Diagonal`, whose floors hold for a diagonal posterior and a normal prior; annealing
    as in `collapse`.

    Raises:
        WavegenError: fields that do not fit each other.
    """

    mel: MelSpec = MelSpec.named("hifigan")  # noqa: RUF009 - frozen
    latent: int = 32
    channels: int = 128
    layers: int = 4
    stride: int = 4
    features: int = 128
    mel_mean: float = -5.0
    mel_std: float = 3.0
    posterior: Literal["point", "diagonal", "iaf", "glow", "hierarchical"] = "diagonal"
    prior: Literal["normal", "conditional", "mixture", "vamp", "flow"] = "normal"
    steps: int = 4
    hidden: tuple[int, ...] = (128,)
    groups: int = 4
    components: int = 10
    labels: tuple[str, ...] = ()
    beta: float = 1.0
    free_bits: float = 0.0
    capacity: float | None = None
    norm: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()
        self.check_fields(self.conditions())
        self.encoder = Encoder(
            self.mel.bins, self.features, channels=self.channels, layers=self.layers, stride=self.stride,
            cond=len(self.labels),
        )  # fmt: skip
        self.levels = Chain()  # from a latent as the decoder sees it to one whose prior is simple
        self.law = self._law()
        self.prior_law = self._prior()

    def _law(self) -> Transform:
        """The posterior, as a map from latents to noise given features."""
        if self.posterior == "hierarchical":
            self.levels = Chain(Grouped(self.latent, self.groups, hidden=self.hidden))
            return Grouped(self.latent, self.groups, hidden=self.hidden, cond=self.features)
        diagonal = Diagonal(self.features, self.latent, norm=self.norm, rate=self.rate)
        if self.posterior in ("iaf", "glow"):
            make = iaf_steps if self.posterior == "iaf" else glow_steps
            return Chain(make(self.latent, steps=self.steps, hidden=self.hidden, cond=self.features), diagonal)
        return diagonal

    def _prior(self) -> Prior:
        if self.prior == "mixture":
            return Mixture(self.components, self.latent)
        if self.prior == "vamp":
            inputs = torch.randn(self.components, self.mel.bins, PSEUDO_FRAMES)
            return Vamp(inputs, posterior=self._pseudo, log_q=self._log_q, draw=self._drawn)
        if self.prior == "conditional":
            return Flowed(Diagonal(len(self.labels), self.latent))
        if self.prior == "flow":
            return Flowed(glow_steps(self.latent, steps=self.steps, hidden=self.hidden, cond=len(self.labels)))
        return Flowed(Chain())

    def conditions(self) -> Iterator[tuple[str, str, bool]]:
        """Fields, what is expected of them, and whether it holds."""
        sizes = (self.latent, self.channels, self.layers, self.stride, self.features, self.steps, *self.hidden)
        yield "latent channels layers stride features steps hidden", "positive numbers", min(sizes) > 0
        yield "groups components", "positive numbers", min(self.groups, self.components) > 0
        yield "posterior", "one that is documented", self.posterior in (
            "point", "diagonal", "iaf", "glow", "hierarchical")  # fmt: skip
        yield "prior", "one that is documented", self.prior in ("normal", "conditional", "mixture", "vamp", "flow")
        glow = self.posterior == "glow" or self.prior == "flow"
        yield "latent posterior prior", "an even size for Glow steps", self.latent % 2 == 0 or not glow
        hierarchical = self.posterior == "hierarchical"
        fits = not hierarchical or (self.latent % self.groups == 0 and self.prior == "normal")
        yield "latent posterior groups prior", "groups of one size, whose prior is their own: normal", fits
        yield "norm rate posterior", "0 for a hierarchical posterior", not (hierarchical and (self.norm or self.rate))
        yield "beta free_bits norm rate", "0 or more", min(self.beta, self.free_bits, self.norm, self.rate) >= 0
        yield "capacity", "0 or more nats, or None", self.capacity is None or self.capacity >= 0
        yield "labels prior", "two labels or more for a conditional prior", (
            self.prior != "conditional" or len(self.labels) > 1)  # fmt: skip
        yield "norm prior", "0 with a VampPrior, whose inputs are no clips", not (self.norm and self.prior == "vamp")
        yield "labels prior", "no labels for a VampPrior", not (self.labels and self.prior == "vamp")
        yield "labels", "names, each once", len(set(self.labels)) == len(self.labels)
        yield "mel_std", "a positive number", self.mel_std > 0

    def label(self, names: Sequence[str]) -> Int64[Tensor, " B"]:
        """The numbers of labels by their names.

        Raises:
            WavegenError: a name that the model does not know.
        """
        for name in names:
            if name not in self.labels:
                known = ", ".join(self.labels) or "no labels"
                raise WavegenError(f"got the label {name!r}, expected one the model was trained with: {known}")
        return torch.tensor([self.labels.index(name) for name in names], dtype=torch.int64)

    @torch.no_grad()
    def encode(
        self,
        mel: Float[Tensor, "B M F"],
        frames: Int64[Tensor, " B"] | None = None,
        *,
        label: Int64[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """The centre of each utterance's posterior; `frames` says how long each is, if not all as long as the batch.

        Raises:
            WavegenError: silence, a clip shorter than the stride, NaN, another convention's bins, a label missing or
                unknown.
        """
        frames = self._frames(mel, frames)
        self.check_input(mel, frames)
        before = self.training
        try:
            features = self.eval().featured(mel, frames, label)
            return self.levels.inverse(self.law.inverse(features.new_zeros(len(mel), self.latent), features)[0])[0]
        finally:
            self.train(before)

    def draw(
        self,
        mel: Float[Tensor, "B M F"],
        frames: Int64[Tensor, " B"] | None = None,
        *,
        label: Int64[Tensor, " B"] | None = None,
        noise: Float[Tensor, "B D"] | None = None,
    ) -> Drawn:
        """A latent from each posterior, a function of the noise; standard normal from torch if none is given."""
        features = self.featured(mel, self._frames(mel, frames), label)
        noise = torch.randn(len(mel), self.latent, device=mel.device) if noise is None else noise
        return self.drawn(features, noise, label)

    def drawn(
        self, features: Float[Tensor, "B H"], noise: Float[Tensor, "B D"], label: Int64[Tensor, " B"] | None
    ) -> Drawn:
        """As `draw`, given the features of the utterances."""
        cond = self.classes(len(features), label).to(features.device) if self.labels else None
        with torch.autocast(features.device.type, enabled=False):
            noise = noise * (self.posterior != "point")
            u, logdet = self.law.inverse(noise, features)
            z, shrunk = self.levels.inverse(u)
            log_q, log_p = gaussian(noise) - logdet - shrunk, self.prior_law.log_prob(u, cond) - shrunk
            each = self._each(u, features, cond)
            kl = log_q - log_p if each is None else each.sum(1)
            return Drawn(z, log_q, log_p, torch.zeros_like(kl) if self.posterior == "point" else kl, each)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        label: Int64[Tensor, " n"] | None = None,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> Float[Tensor, "n D"]:
        """So many latents from the prior, of the given classes if it has any; a temperature below 1 is more typical.

        Raises:
            WavegenError: none asked for, or labels that are missing or unknown.
        """
        if n < 1:
            raise WavegenError(f"got {n} latents to draw, expected at least 1")
        generator = None if seed is None else Generator().manual_seed(seed)
        noise = temperature * torch.randn(n, self.latent, generator=generator)
        noise = noise.to(next(self.parameters()).device)
        cond = self.classes(n, label).to(noise.device) if self.labels else None
        return self.levels.inverse(self.prior_law.sample(noise, cond, generator))[0]

    @torch.no_grad()
    def responsibilities(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """p(component | z) under a mixture prior: the clusters that were learned.

        Raises:
            WavegenError: a model with another prior.
        """
        if not isinstance(self.prior_law, Mixed):
            raise WavegenError(f"got a prior that is {self.prior}, expected mixture or vamp; train with such a prior")
        self.check_latent(z)
        return self.prior_law.responsibilities(self.levels(z)[0])

    def featured(
        self, mel: Float[Tensor, "B M F"], frames: Int64[Tensor, " B"], label: Int64[Tensor, " B"] | None
    ) -> Float[Tensor, "B H"]:
        """What the posterior is given of each utterance."""
        return self.encoder((mel - self.mel_mean) / self.mel_std, frames, self.classes(len(mel), label).to(mel.device))

    def classes(self, n: int, label: Int64[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        """Labels as one-hot vectors, empty ones for a model without.

        Raises:
            WavegenError: labels for a model without, none for one with, or of which there are not n in its range.
        """
        known = len(self.labels)
        if not known and label is not None:
            raise WavegenError("got labels, expected none: the model was trained without; leave them out")
        if not known:
            return torch.zeros(n, 0)
        if label is None:
            raise WavegenError(f"got no labels, expected {n} of {', '.join(self.labels)}; say which with `label`")
        if len(label) != n or not ((label >= 0) & (label < known)).all():
            got = f"{len(label)} labels, such as {label.unique().tolist()[:5]}"
            raise WavegenError(f"got {got}, expected {n} from 0 to {known - 1}; make them with the model's `label`")
        return functional.one_hot(label, known).float()

    def _pseudo(self, inputs: Float[Tensor, "K M F"]) -> Float[Tensor, "K H"]:
        """Features of pseudo-inputs, which are standardised already."""
        frames = torch.full((len(inputs),), inputs.shape[-1], device=inputs.device)
        return self.encoder(inputs, frames, inputs.new_zeros(len(inputs), 0))

    def _drawn(self, noise: Float[Tensor, "B D"], features: Float[Tensor, "B H"]) -> Float[Tensor, "B D"]:
        """What noise stands for under each posterior."""
        return self.law.inverse(noise, features)[0]

    def _log_q(self, u: Float[Tensor, "B D"], features: Float[Tensor, "K H"]) -> Float[Tensor, "B K"]:
        """Log density of each latent under each posterior."""
        pairs = u.repeat_interleave(len(features), dim=0), features.repeat(len(u), 1)
        noise, logdet = self.law(*pairs)
        return (gaussian(noise) + logdet).view(len(u), len(features))

    def _each(self, u: Tensor, features: Tensor, cond: Tensor | None) -> Float[Tensor, "B D"] | None:
        """KL of each coordinate in closed form, given those before it, where there is one."""
        prior = self.prior_law.transform if isinstance(self.prior_law, Flowed) else None
        if not isinstance(self.law, Gaussian) or self.posterior == "point":
            return None
        if self.prior == "normal":
            return divergence(self.law.moments(u, features), (torch.zeros_like(u), torch.zeros_like(u)))
        if isinstance(prior, Gaussian):
            return divergence(self.law.moments(u, features), prior.moments(u, cond))
        return None

    def pressure(self, drawn: Drawn, anneal: Float[Tensor, ""] | float = 1.0) -> Float[Tensor, ""]:
        """What is minimised in place of the mean KL, by the remedies that are set."""
        if self.posterior == "point":
            return drawn.kl.new_zeros(())
        mean = drawn.kl.mean() if drawn.each is None else drawn.each.mean(0)
        kl = mean.clamp(min=self.free_bits * self.latent / mean.numel()).sum() if self.free_bits else mean.sum()
        if self.capacity is not None:
            return self.beta * (kl - anneal * self.capacity).abs()
        return anneal * self.beta * kl

    @torch.no_grad()
    def health(self, features: Float[Tensor, "B H"], drawn: Drawn) -> dict[str, Tensor]:
        """The share of active units, the information of x and z, the KL of each unit if known; it warns of collapse.

        The information is that within the batch, see `collapse.information`.
        """
        with torch.autocast(features.device.type, enabled=False):
            active = active_units(self.law.inverse(torch.zeros_like(drawn.z), features)[0]).mean()
            told = information(self._log_q(self.levels(drawn.z)[0], features))
        if active < ALARM and len(features) > 1 and self.posterior != "point":
            remedies = ["free_bits", "capacity", *(["norm", "rate"] if self.posterior != "hierarchical" else [])]
            unused = ", ".join(name for name in remedies if not getattr(self, name)) or "a lower beta"
            warnings.warn(
                f"got {100 * active:.0f} % of {self.latent} units active and a KL of {drawn.kl.mean():.2f} nats, "
                f"expected more: the posterior has collapsed; set {unused}, or anneal the KL",
                Collapse,
                stacklevel=3,
            )
        units = [] if drawn.each is None else drawn.each.mean(0)
        return {"active": active, "mi": told, **{f"kl/{unit:02d}": value for unit, value in enumerate(units)}}

    def check_input(self, mel: Float[Tensor, "B M F"], frames: Int64[Tensor, " B"]) -> None:
        """Refuse mels that cannot be the model's, saying what is wrong with them."""
        if mel.ndim != 3 or frames.shape != mel.shape[:1]:
            raise WavegenError(
                f"got mels of shape {tuple(mel.shape)} with {tuple(frames.shape)} lengths, expected (batch, bins, "
                "frames) and a length for each; add a batch axis"
            )
        self.mel.check(mel)
        if int(frames.max()) > mel.shape[-1]:
            raise WavegenError(
                f"got a length of {int(frames.max())}, expected at most the {mel.shape[-1]} frames given"
            )
        if int(frames.min()) < self.stride:
            raise WavegenError(
                f"got a clip of {int(frames.min())} frames, expected at least {self.stride}, the encoder's stride; "
                "leave shorter clips out"
            )
        quiet = silence(self.mel).to(mel).unsqueeze(1) + 1e-3
        for item, count in zip(mel, frames.tolist(), strict=True):
            if (item[:, :count] <= quiet).all():
                raise WavegenError("got a silent clip, expected sound: nothing can be told of it; leave it out")

    def check_latent(self, z: Float[Tensor, "B D"]) -> None:
        """Refuse latents of another size than the model's, or that are not finite."""
        if z.ndim != 2 or z.shape[1] != self.latent or not z.isfinite().all():
            raise WavegenError(
                f"got latents of shape {tuple(z.shape)}, expected finite numbers of shape (batch, {self.latent}); "
                "encode clips with this model"
            )

    def _frames(self, mel: Tensor, frames: Tensor | None) -> Int64[Tensor, " B"]:
        return torch.full((len(mel),), mel.shape[-1], device=mel.device) if frames is None else frames

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
