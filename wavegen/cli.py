"""The `wavegen` command: one short function a verb, each calling the public API."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from wavegen.errors import WavegenError

if TYPE_CHECKING:  # torch takes seconds to import: each verb imports what it needs
    from jaxtyping import Float
    from torch import Tensor

    from wavegen.vocoders.base import Vocoder

__all__ = ["main", "run"]

app = App(name="wavegen", help="Speech from likelihood models: train a vocoder, turn mels into sound, measure both.")
data = App(name="data", help="Fetch and audit recordings.")
app.command(data)

VOICE = "kathleen-wavenet"
MELS = (".npy", ".safetensors")
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Strength = Annotated[float, Parameter(validator=Number(gte=0))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=1 << 63))]


@app.command
def vocode(
    source: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)],
    vocoder: str = VOICE,
    seed: Seed = 0,
    temperature: float | None = None,
    denoise: Strength = 0.0,
    folds: Count = 1,
    threads: Count = 1,
) -> None:
    """Turn a mel into sound; a recording is turned into a mel first (copy synthesis).

    Args:
        source: a recording, or a mel: .safetensors as `wavegen mel` writes it, or .npy of (bins, frames).
        output: the sound to write, .wav or .flac; - writes 16-bit samples to standard output as they are made.
        vocoder: a voice that ships, or a model file.
        seed: another number, another take.
        temperature: 1 draws as the model learned, less is calmer; the voice knows what suits it.
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
    denoiser = Denoiser(voice, denoise, temperature=temperature, seed=seed)
    if str(output) == "-":
        if max(folds, threads) > 1:
            raise WavegenError("got --folds or --threads with -o -, expected neither: a stream is made on one core")
        _play(denoiser.stream(voice.stream(mel.split(8, dim=-1), seed=seed, temperature=temperature)))
        return
    settings: dict[str, Any] = {"folds": folds} if folds > 1 else {}
    if settings and not isinstance(voice, WaveNet):
        raise WavegenError(f"got {folds} folds for {vocoder}, expected a WaveNet to fold; use --threads alone")
    with _progress(mel.shape[-1] * voice.mel.hop, voice.mel.rate) as progress:
        settings |= {"seed": seed, "temperature": temperature, "threads": threads, "progress": progress}
        wav = voice.synthesize(mel.unsqueeze(0), **settings)
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


def _play(pieces: "Iterable[Float[Tensor, ' _T']]") -> None:
    """Write 16-bit little-endian samples to standard output, chunk by chunk."""
    for piece in pieces:
        sys.stdout.buffer.write((piece * 32767).round().short().numpy().astype("<i2").tobytes())
        sys.stdout.buffer.flush()


class _progress:  # noqa: N801 - reads as a verb in a `with`
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


@app.command
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


@data.command
def download(corpus: str, output: Path, *, archive: Path | None = None) -> None:
    """Fetch a corpus, verify its SHA-256 and unpack it; run again to resume.

    Args:
        corpus: ljspeech.
        output: the folder to unpack into.
        archive: the corpus file, if you have it already.
    """
    from wavegen.data import download as fetch

    if corpus != "ljspeech":
        raise WavegenError(f"got the corpus {corpus!r}, expected ljspeech; use any other from a folder of your own")
    print(fetch(output, archive=archive))


@data.command
def check(folder: Path, *, rate: Count | None = None) -> None:
    """Audit recordings before training; exits with 1 if something would break it.

    Args:
        folder: LJSpeech layout (metadata.csv and wavs/), or any folder of audio.
        rate: the rate in Hz that the recordings should have.
    """
    from wavegen.data import check as audit

    report = audit(folder, rate=rate)
    print(report)
    if report.fatal:
        sys.exit(1)


@app.command
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


@app.command(name="import")
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


@app.command
def export(voice: str, *, onnx: Path) -> None:
    """Write a WaveGlow for programs without torch, from noise and mel to sound.

    Args:
        voice: a voice that ships, or a model file.
        onnx: the ONNX file to write, .onnx.
    """
    from wavegen.export import export_onnx
    from wavegen.voices import load_voice

    export_onnx(load_voice(voice), onnx)


@app.command
def info(file: Path) -> None:
    """Print what a model file holds: class, fields and notes, without reading its weights."""
    from wavegen.model import read_header

    print(json.dumps(read_header(file), indent=2))


@app.command
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


def _started(app: App) -> Any:
    """Run a command line; what the user can mend is one sentence and exit code 2."""
    name = Path(sys.argv[0]).name
    try:
        return app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (WavegenError, CycloptsError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone; there is nobody to tell
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def run(main: Callable[..., Any]) -> None:
    """Call a recipe's `main` with the command line, its keyword arguments being the options."""
    recipe = App(name=Path(sys.argv[0]).name, help_format="plaintext")
    recipe.default(main)
    _started(recipe)


def main() -> None:
    """The entry point of `wavegen`."""
    _started(app)
