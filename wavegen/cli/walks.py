"""`wavegen latents`: walks through a latent space, to be seen and heard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from cyclopts.validators import Path as Named

from wavegen.cli.options import LATENT, VOICE, Count, Seed
from wavegen.errors import WavegenError

if TYPE_CHECKING:  # torch takes seconds to import: each verb imports what it needs
    from jaxtyping import Float, Int64
    from torch import Tensor

    from wavegen.latents.base import Latent
    from wavegen.latents.vae import VAE
    from wavegen.vocoders.base import Vocoder

__all__ = ["decoded", "decoder", "interpolate", "label_of", "traverse"]

Folder = Annotated[Path, Parameter(name=["--output", "-o"], validator=Named(file_okay=False))]
Steps = Annotated[int, Parameter(validator=Number(gte=2, lte=100))]
Span = Annotated[float, Parameter(validator=Number(gt=0, lt=100))]


def interpolate(
    a: Path,
    b: Path,
    *,
    output: Folder,
    steps: Steps = 7,
    spherical: bool = False,
    latent: str = LATENT,
    label: str | None = None,
    vocoder: str = VOICE,
    seed: Seed = 0,
    threads: Count = 1,
) -> None:
    """Walk from one recording's latent to another's: what A says, as A would and then more and more as B.

    Example: `wavegen latents interpolate her.flac him.flac -o walk --steps 5`

    Args:
        a: the recording that the walk starts at; every step is as long, and says the same if the latent is told what.
        b: the recording whose manner it ends in.
        output: the folder for a sound of each step and path.png.
        steps: from A to B, both included.
        spherical: turn from A to B rather than go straight.
        latent: a latent that ships, or a model file.
        label: the class of both, for a latent with labels.
        vocoder: a voice that ships, or a model file.
        seed: another number, another take; the same at every step.
        threads: processor cores for the vocoder.
    """
    from wavegen.cli.sound import encoded
    from wavegen.latents.explore import path

    model = decoder(latent)
    voice = _voice(vocoder, model)
    mel, start = encoded(model, a, label_of(model, label))
    _, end = encoded(model, b, label_of(model, label))
    walk = path(start[0], end[0], steps, spherical=spherical)
    names = [f"{step / (steps - 1):.0%} B" for step in range(steps)]
    mels = decoded(model, walk, mel, label=label)
    _hear(mels, walk, voice, names=names, output=output, seed=seed, threads=threads)


def traverse(
    clip: Path,
    *,
    dimension: int,
    output: Folder,
    span: Span = 3.0,
    steps: Steps = 7,
    latent: str = LATENT,
    label: str | None = None,
    vocoder: str = VOICE,
    seed: Seed = 0,
    threads: Count = 1,
) -> None:
    """Turn one dimension of a recording's latent like a knob, and leave the others.

    Example: `wavegen latents traverse her.flac --dimension 4 -o knob`

    Args:
        clip: the recording.
        dimension: which, from 0.
        output: the folder for a sound of each step and path.png.
        span: from minus this to this; under a normal prior nearly all lies within 3.
        steps: from one end to the other.
        latent: a latent that ships, or a model file.
        label: the class of the recording, for a latent with labels.
        vocoder: a voice that ships, or a model file.
        seed: another number, another take; the same at every step.
        threads: processor cores for the vocoder.
    """
    from wavegen.cli.sound import encoded
    from wavegen.latents import explore

    model = decoder(latent)
    voice = _voice(vocoder, model)
    mel, z = encoded(model, clip, label_of(model, label))
    values = [span * (2 * step / (steps - 1) - 1) for step in range(steps)]
    walk = explore.traverse(z[0], dimension, values=values)
    names = [f"{value:+.1f}" for value in values]
    mels = decoded(model, walk, mel, label=label)
    _hear(mels, walk, voice, names=names, output=output, seed=seed, threads=threads)


def decoder(latent: str) -> "VAE":
    """A latent that can decode."""
    from wavegen.latents.vae import VAE
    from wavegen.voices import load_latent

    model = load_latent(latent)
    if not isinstance(model, VAE):
        raise WavegenError(f"{latent} holds a {type(model).__name__}, expected a VAE, which can decode; name another")
    return model


def label_of(model: "Latent", label: str | None, n: int = 1) -> "Int64[Tensor, ' n'] | None":
    """The label so many times, if it is given."""
    return None if label is None else model.label([label] * n)


def decoded(
    model: "VAE", z: "Float[Tensor, 'B D']", mel: "Float[Tensor, '1 M F'] | None", *, label: str | None, frames: int = 0
) -> "Float[Tensor, 'B M F']":
    """A mel for each latent: as long as `mel`, and of what it says if the model is told that; else of `frames`."""
    content = None if mel is None else model.contents(mel)
    said = None if content is None else content.expand(len(z), -1, -1)
    return model.decode(z, frames if mel is None else mel.shape[-1], label=label_of(model, label, len(z)), content=said)


def _voice(vocoder: str, model: "Latent") -> "Vocoder":
    """A voice that can read what a latent decodes, and be told its style by it if it takes one."""
    import torch

    from wavegen.voices import load_voice

    torch.set_num_threads(1)  # the voice shares its work out among threads itself
    voice = load_voice(vocoder)
    voice.check_mel(model.mel)
    if voice.style not in (0, model.latent):
        got, expected = f"a latent of {model.latent} numbers", f"the {voice.style} that {vocoder} was trained with"
        raise WavegenError(f"got {got}, expected {expected}; use the --latent that it was trained with")
    return voice


def _hear(
    mels: "Float[Tensor, 'S M F']",
    walk: "Float[Tensor, 'S D']",
    voice: "Vocoder",
    *,
    names: Sequence[str],
    output: Path,
    seed: int,
    threads: int,
) -> None:
    """Write a sound of each mel, 01.wav and on, and a picture of them all."""
    from wavegen.audio.files import write
    from wavegen.cli.sound import progress
    from wavegen.latents.explore import draw_path

    draw_path(mels, output / "path.png", names=names)
    with progress(len(mels) * mels.shape[-1] * voice.mel.hop, voice.mel.rate) as advance:
        for step, (mel, z) in enumerate(zip(mels.split(1), walk.split(1), strict=True), start=1):
            style = z if voice.style else None
            wav = voice.synthesize(mel, style, seed=seed, threads=threads, progress=advance)
            write(output / f"{step:02}.wav", wav[0], voice.mel.rate)
