"""Likelihood-based speech synthesis: WaveNet, flows and VAEs, trained from recipes, fast on a CPU."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavegen.audio.files import read, write
    from wavegen.audio.griffin_lim import agree, griffin_lim
    from wavegen.audio.mel import MelSpec
    from wavegen.cli import run
    from wavegen.data import Batches, Clip, Corpus, Prefetch, Utterances, check, download, validation
    from wavegen.errors import WavegenError
    from wavegen.evaluation import compare, evaluate_folders, evaluate_vocoder, tones
    from wavegen.export import export_onnx
    from wavegen.flows import IAF, MADE, MAF, NICE, Chain, Flow, Glow, RealNVP, Transform
    from wavegen.interop import import_checkpoint
    from wavegen.latents import VAE, Collapse, InfoMax, Latent, annealed, cyclical, linear
    from wavegen.model import Model
    from wavegen.training import fit
    from wavegen.vocoders.base import Vocoder
    from wavegen.vocoders.denoise import Denoiser
    from wavegen.vocoders.waveglow import WaveGlow
    from wavegen.vocoders.wavenet import WaveNet
    from wavegen.voices import load_latent, load_voice

_HOMES = {
    "wavegen.audio.files": ("read", "write"),
    "wavegen.audio.griffin_lim": ("agree", "griffin_lim"),
    "wavegen.audio.mel": ("MelSpec",),
    "wavegen.cli": ("run",),
    "wavegen.data": ("Batches", "Clip", "Corpus", "Prefetch", "Utterances", "check", "download", "validation"),
    "wavegen.errors": ("WavegenError",),
    "wavegen.evaluation": ("compare", "evaluate_folders", "evaluate_vocoder", "tones"),
    "wavegen.export": ("export_onnx",),
    "wavegen.flows": ("IAF", "MADE", "MAF", "NICE", "Chain", "Flow", "Glow", "RealNVP", "Transform"),
    "wavegen.interop": ("import_checkpoint",),
    "wavegen.latents": ("VAE", "Collapse", "InfoMax", "Latent", "annealed", "cyclical", "linear"),
    "wavegen.model": ("Model",),
    "wavegen.training": ("fit",),
    "wavegen.vocoders.base": ("Vocoder",),
    "wavegen.vocoders.denoise": ("Denoiser",),
    "wavegen.vocoders.waveglow": ("WaveGlow",),
    "wavegen.vocoders.wavenet": ("WaveNet",),
    "wavegen.voices": ("load_latent", "load_voice"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF]  # imported when first asked for, so that nobody waits for torch


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'wavegen' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
