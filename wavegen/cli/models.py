"""Models measured, imported, exported and looked into."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from wavegen.cli.options import Count, Strength
from wavegen.errors import WavegenError

__all__ = ["bench", "evaluate", "export", "import_", "info"]


def evaluate(
    *,
    reference: Path | None = None,
    synthesized: Path | None = None,
    vocoder: str | None = None,
    data: Path | None = None,
    split: str | None = None,
    clips: Count | None = None,
    temperature: float | None = None,
    denoise: Strength = 0.0,
    threads: Count = 1,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Measure how far synthesized speech is from recordings: two folders, or copy synthesis by a vocoder.

    Prints a table of means with 95 % intervals.

    Args:
        reference: a folder of recordings.
        synthesized: a folder of files of the same names.
        vocoder: a voice that ships or a model file; compared with Griffin-Lim and the recordings themselves.
        data: the corpus it copies.
        split: a list of the clips to use, such as test.csv in the corpus.
        clips: only the first so many.
        temperature: of the vocoder, if not the one that suits it.
        denoise: subtract so many times what the vocoder says for silence.
        threads: processor cores for torch, which the real-time factor depends on.
        output: a folder for evaluation.json, evaluation.md and evaluation.png.
    """
    import torch

    from wavegen.data import Corpus
    from wavegen.evaluation.compare import evaluate_folders, evaluate_vocoder
    from wavegen.vocoders.denoise import Denoiser
    from wavegen.voices import load_voice

    torch.set_num_threads(threads)
    if reference and synthesized and not (vocoder or data or denoise):
        found = evaluate_folders(reference, synthesized, out=output)
    elif vocoder and data and not (reference or synthesized):
        chosen = Corpus.open(data, split)[:clips]
        voice = load_voice(vocoder)
        denoiser = Denoiser(voice, denoise, temperature=temperature)
        found = evaluate_vocoder(
            voice, chosen, name=Path(vocoder).stem, out=output, temperature=temperature, finish=denoiser
        )
    else:
        raise WavegenError(
            "got neither pair of options, expected --reference and --synthesized, or --vocoder and --data; "
            "--denoise belongs to the second"
        )
    print(found.to_markdown())


def import_(
    file: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    convention: str | None = None,
    stacks: Count | None = None,
    alternating: bool | None = None,
) -> None:
    """Turn a published checkpoint, NVIDIA's WaveGlow or r9y9's WaveNet, into a model file; nothing in it is run.

    Args:
        file: the checkpoint, as torch.save wrote it.
        output: the model file to write, .safetensors.
        convention: of the mels it was trained on, if not the one of the published models.
        stacks: how many times a WaveNet's dilations begin again, if its number of layers is not a published one.
        alternating: the halves of a WaveGlow take turns, as in NVIDIA's oldest, where the file does not say so.
    """
    from wavegen.audio.mel import MelSpec
    from wavegen.interop import import_checkpoint

    if output.suffix != ".safetensors":
        raise WavegenError(f"cannot write a model to {output}: expected a name that ends in .safetensors; rename it")
    mel = MelSpec.named(convention) if convention else None
    model, found = import_checkpoint(file, mel=mel, stacks=stacks, alternating=alternating)
    model.save(output, notes={"imported": found})
    print(f"{found}; mels of the convention {model.mel}")


def export(voice: str, *, onnx: Path) -> None:
    """Write a WaveGlow for programs without torch, from noise and mel to sound.

    Args:
        voice: a voice that ships, or a model file.
        onnx: the ONNX file to write, .onnx.
    """
    from wavegen.export import export_onnx
    from wavegen.voices import load_voice

    export_onnx(load_voice(voice), onnx)


def info(file: Path) -> None:
    """Print what a model file holds: class, fields and notes, without reading its weights."""
    from wavegen.model import read_header

    print(json.dumps(read_header(file), indent=2))


def bench(
    *,
    presets: tuple[str, ...] = (),
    seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 0.5,
    repeats: Count = 3,
    output: Path | None = None,
) -> None:
    """Measure speed and memory on this machine: generation, streaming and training of each preset.

    Args:
        presets: such as wavenet/edge or waveglow/edge; the usual ones if none is named.
        seconds: of sound to make in each measurement.
        repeats: processes, of which the median is printed.
        output: also write the figures to this JSON file.
    """
    from wavegen.bench import bench as measure

    measure(presets, seconds=seconds, repeats=repeats, output=output)
