"""Recordings and mels into mels and sound."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from wavegen.cli.options import LATENT, VOICE, Count, Seed, Strength
from wavegen.errors import WavegenError

if TYPE_CHECKING:  # torch takes seconds to import: each verb imports what it needs
    from jaxtyping import Float, Int64
    from torch import Tensor

    from wavegen.latents.base import Latent
    from wavegen.vocoders.base import Vocoder

__all__ = ["encoded", "mel", "progress", "vocode"]

MELS = (".npy", ".safetensors")


def vocode(
    source: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)],
    vocoder: str = VOICE,
    seed: Seed = 0,
    temperature: float | None = None,
    style: Path | None = None,
    latent: str = LATENT,
    denoise: Strength = 0.0,
    folds: Count = 1,
    threads: Count = 1,
) -> None:
    """Turn a mel into sound; a recording is turned into a mel first (copy synthesis).

    Example: `wavegen vocode hello.wav --style her.flac --vocoder speakers.safetensors -o hers.wav`

    Args:
        source: a recording, or a mel: .safetensors as `wavegen mel` writes it, or .npy of (bins, frames).
        output: the sound to write, .wav or .flac; - writes 16-bit samples to standard output as they are made.
        vocoder: a voice that ships, or a model file.
        seed: another number, another take.
        temperature: 1 draws as the model learned, less is calmer; the voice knows what suits it.
        style: how it should sound, for a voice trained with styles: a recording, the mean of what `wavegen latents
            encode` wrote (.safetensors), or a vector (.npy).
        latent: what turns the recording into a style: a latent that ships, or a model file.
        denoise: subtract so many times what the voice says for silence, 0 for nothing, 1 for all of it.
        folds: cut a long sound into so many streams of a WaveNet, made together; faster with threads.
        threads: processor cores to use.
    """
    import torch

    from wavegen.audio.files import check_suffix, write
    from wavegen.vocoders.denoise import Denoiser
    from wavegen.vocoders.wavenet import WaveNet
    from wavegen.voices import load_voice

    if str(output) != "-":
        check_suffix(output)  # before minutes of work
    torch.set_num_threads(1)  # the voice shares its work out among threads itself
    voice = load_voice(vocoder)
    mel = _mel_of(source, voice)
    z = _style_of(style, voice, latent)
    denoiser = Denoiser(voice, denoise, style=z, temperature=temperature, seed=seed)
    if str(output) == "-":
        if max(folds, threads) > 1:
            raise WavegenError("got --folds or --threads with -o -, expected neither: a stream is made on one core")
        _play(denoiser.stream(voice.stream(mel.split(8, dim=-1), z, seed=seed, temperature=temperature)))
        return
    settings: dict[str, Any] = {"folds": folds} if folds > 1 else {}
    if settings and not isinstance(voice, WaveNet):
        raise WavegenError(f"got {folds} folds for {vocoder}, expected a WaveNet to fold; use --threads alone")
    with progress(mel.shape[-1] * voice.mel.hop, voice.mel.rate) as advance:
        settings |= {"seed": seed, "temperature": temperature, "threads": threads, "progress": advance}
        wav = voice.synthesize(mel.unsqueeze(0), None if z is None else z.unsqueeze(0), **settings)
    write(output, denoiser(wav)[0], voice.mel.rate)


def _mel_of(source: Path, voice: "Vocoder") -> "Float[Tensor, 'M F']":
    """The mel in a file, of the voice's convention, or that of a recording."""
    from wavegen.audio.files import load_mel, read

    if source.suffix in MELS:
        mel, spec = load_mel(source, voice.mel if source.suffix == ".npy" else None)
        voice.check_mel(spec)
        return mel
    wav, _ = read(source, rate=voice.mel.rate)
    return voice.mel(wav.unsqueeze(0))[0]


def _style_of(source: Path | None, voice: "Vocoder", latent: str) -> "Float[Tensor, ' D'] | None":
    """The style in a file, or that of a recording; None for a voice that takes none."""
    from wavegen.voices import load_latent

    if source is None and not voice.style:
        return None
    if source is None or not voice.style:
        got, expected = ("no style", f"one of {voice.style} numbers") if voice.style else ("a style", "none")
        raise WavegenError(
            f"got {got} for a voice that expected {expected}; add or leave out --style, or use another --vocoder"
        )
    style = _vector(source) if source.suffix in MELS else encoded(load_latent(latent), source)[1][0]
    if style.shape != (voice.style,):
        got = "x".join(map(str, style.shape))
        raise WavegenError(
            f"got a style of {got} numbers from {source}, expected the {voice.style} that the voice was trained with; "
            "use the --latent that it was trained with"
        )
    return style


def _vector(source: Path) -> "Float[Tensor, '*D']":
    """The array of a .npy file, or the mean of a collection of latents."""
    import numpy as np
    import torch

    from wavegen.latents.explore import Collection

    if source.suffix == ".safetensors":
        return Collection.load(source).z.mean(0)
    try:  # as mels are read: mapped, never unpickled
        array = np.lib.format.open_memmap(source, mode="r")
        return torch.from_numpy(np.array(array, dtype=np.float32))
    except (ValueError, TypeError, OSError, EOFError, SyntaxError) as error:
        raise WavegenError(
            f"{source} is not a complete array of numbers ({error}); save it again with numpy"
        ) from error


def encoded(
    model: "Latent", clip: Path, label: "Int64[Tensor, ' 1'] | None" = None
) -> "tuple[Float[Tensor, '1 M F'], Float[Tensor, '1 D']]":
    """The mel of a recording, as the model reads it, and its latent."""
    from wavegen.audio.files import read

    wav, _ = read(clip, rate=model.mel.rate)
    try:
        mel = model.mel(wav.unsqueeze(0))
        return mel, model.encode(mel, label=label)
    except WavegenError as error:  # which knows no file
        raise WavegenError(f"{clip}: {error}") from error


def _play(pieces: "Iterable[Float[Tensor, ' _T']]") -> None:
    """Write 16-bit little-endian samples to standard output, chunk by chunk."""
    for piece in pieces:
        sys.stdout.buffer.write((piece * 32767).round().short().numpy().astype("<i2").tobytes())
        sys.stdout.buffer.flush()


class progress:  # noqa: N801 - reads as a verb in a `with`
    """A bar of samples made, with samples a second and how many times faster than real time that is."""

    def __init__(self, samples: int, rate: int) -> None:
        from tqdm import tqdm

        self.rate = rate
        self.bar = tqdm(total=samples, unit="sample", unit_scale=True, desc="vocode", delay=1, disable=None)

    def __enter__(self) -> Callable[[int], None]:
        return self.advance

    def advance(self, samples: int) -> None:
        self.bar.update(samples)
        if speed := self.bar.format_dict["rate"]:
            self.bar.set_postfix_str(f"{speed / self.rate:.1f} x real time")

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def mel(
    source: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    convention: str = "hifigan",
) -> None:
    """Write the mel of a recording.

    Args:
        source: a recording of any format and rate.
        output: a .safetensors file, which also says by what convention the mel was made.
        convention: tacotron2, hifigan, r9y9, r9y9_v01, parallel_wavegan, parallel_wavegan_24k or vocos.
    """
    from wavegen.audio.files import read, save_mel
    from wavegen.audio.mel import MelSpec

    spec = MelSpec.named(convention)
    wav, _ = read(source, rate=spec.rate)
    save_mel(output, spec(wav.unsqueeze(0))[0], spec)
