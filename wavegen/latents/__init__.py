"""Latent-variable models of utterances: encoders, posteriors, priors, and what to do with their latents."""

from wavegen.latents.base import Latent
from wavegen.latents.collapse import Collapse, annealed, cyclical, linear
from wavegen.latents.infomax import InfoMax
from wavegen.latents.vae import VAE

__all__ = ["VAE", "Collapse", "InfoMax", "Latent", "annealed", "cyclical", "linear"]
