"""Copy synthesis: recordings through systems and back, or two folders of files, into one evaluation."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.audio.files import read, write
from wavegen.audio.griffin_lim import griffin_lim
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.evaluation.likelihood import nats_per_sample
from wavegen.evaluation.metrics import METRICS, Unmeasurable, Wav
from wavegen.evaluation.report import Evaluation, Take, evaluate
from wavegen.model import Model

__all__ = ["compare", "evaluate_folders", "evaluate_vocoder"]

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"))
RECORDINGS = "recordings"
GROUP = 8  # samples; whistles are sought at multiples of the rate over it, unless a vocoder has groups of its own

Synthesize = Callable[[Float[Tensor, "1 M F"]], Float[Tensor, "1 T"]]
Finish = Callable[[Float[Tensor, "1 T"]], Float[Tensor, "1 T"]]
Metrics = Mapping[str, Callable[[Wav, Wav, int], float]]


@runtime_checkable
class Clip(Protocol):
    """A recording in a file; `wavegen.data.Clip` is one."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def text(self) -> str: ...


@runtime_checkable
class Copier(Protocol):
    """What evaluation asks of a vocoder; every `wavegen.vocoders.Vocoder` has it."""

    mel: MelSpec

    def synthesize(
        self, mel: Float[Tensor, "B M F"], *, seed: int | None = None, temperature: float | None = None
    ) -> Float[Tensor, "B T"]: ...


def compare(
    systems: Mapping[str, Synthesize],
    clips: Sequence[Clip],
    spec: MelSpec,
    *,
    out: Path | str | None = None,
    recordings: bool = True,
    nats: Mapping[str, Callable[[Float[Tensor, " T"]], float | None]] | None = None,
    group: int = GROUP,
    metrics: Metrics = METRICS,
) -> Evaluation:
    """Copy synthesis of every clip by every system: recording -> mel of `spec` -> sound, a row of the table each.

    `recordings` adds the recordings themselves as a row, the best any metric can say; `nats` holds functions from a
    recording to a system's negative log density in nats per sample, for the systems that have one. With `out`, the
    report and `wavs/SYSTEM/ID.wav` are written there. Clips are read at the rate of `spec`; each system sees a short
    mel first, so that no compilation counts in its real-time factor.

    Raises:
        WavegenError: no clip or system, an unreadable recording, NaN, a missing package, an unwritable folder.
    """
    if not clips or not (systems or recordings):
        raise WavegenError(f"got {len(clips)} clips and {len(systems)} systems, expected at least one of each")
    if RECORDINGS in systems:
        raise WavegenError(f"a system is named {RECORDINGS!r}, which is the name of the originals; rename it")

    def takes() -> Iterator[Take]:
        warm: set[str] = set()
        for clip in clips:
            wav, rate = read(clip.path, rate=spec.rate)
            mel = spec(wav[None])
            if recordings:
                yield Take(clip.id, wav, wav, rate, RECORDINGS, clip.text)
            for name, synthesize in systems.items():
                if name not in warm:
                    synthesize(mel[..., :8])
                    warm.add(name)
                sound, seconds = _timed(synthesize, mel)
                if out is not None:
                    write(Path(out) / "wavs" / name / f"{clip.id}.wav", sound, rate)
                density = nats[name](wav) if nats and name in nats else None
                yield Take(clip.id, wav, sound, rate, name, clip.text, seconds, density)

    note = f"RTF: {torch.get_num_threads()} torch threads; mel: {spec}; whistle: at k * {spec.rate} / {group} Hz."
    total = len(clips) * (len(systems) + recordings)
    return _saved(evaluate(takes(), metrics=metrics, group=group, total=total, notes=[note]), out)


def evaluate_vocoder(
    vocoder: Copier,
    clips: Sequence[Clip],
    *,
    name: str = "vocoder",
    against: Mapping[str, Synthesize] | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    finish: Finish = lambda wav: wav,
    metrics: Metrics = METRICS,
) -> Evaluation:
    """Copy synthesis by a vocoder beside the recordings and `against` (Griffin-Lim, 60 iterations, when None).

    A vocoder that is a Model with a likelihood also gets its bits per 16-bit sample on the recordings. Whistles are
    sought at multiples of the rate over its `group`, or `block`. `finish` is done to its sound, as a Denoiser does it.

    Raises:
        WavegenError: as `compare`.
    """
    spec = vocoder.mel
    model = vocoder if isinstance(vocoder, Model) else None
    device = next((p.device for p in model.parameters()), None) if model else None

    def synthesize(mel: Float[Tensor, "1 M F"]) -> Float[Tensor, "1 T"]:
        return finish(vocoder.synthesize(mel.to(device), seed=seed, temperature=temperature))

    def density(wav: Float[Tensor, " T"]) -> float | None:
        frames = len(wav) // spec.hop
        batch = {"wav": wav[None, : frames * spec.hop], "mel": spec(wav[None])[..., :frames]}
        with suppress(Unmeasurable):
            return nats_per_sample(model, batch, seed=seed) if model else None

    if against is None:
        against = {"griffin-lim": partial(griffin_lim, spec=spec)}
    systems = {name: synthesize, **against}
    return compare(systems, clips, spec, out=out, nats={name: density}, group=_group(vocoder), metrics=metrics)


def _group(vocoder: Copier) -> int:
    """How many samples the vocoder makes at once: `group` of a flow, `block` of a WaveNet."""
    sizes = (getattr(vocoder, name, 1) for name in ("group", "block"))
    return next((size for size in sizes if size > 1), GROUP)


def evaluate_folders(
    reference: Path | str,
    synthesized: Path | str,
    *,
    texts: Mapping[str, str] | None = None,
    rate: int | None = None,
    group: int = GROUP,
    out: Path | str | None = None,
    metrics: Metrics = METRICS,
) -> Evaluation:
    """Compare the files of two folders that have the same name but for the suffix.

    Every synthesized file needs a reference; references without a synthesis are named in the report. `texts` (by
    name without suffix) adds WER, with a row for the recordings; `rate` resamples both sides; whistles are sought at
    multiples of the rate over `group`.

    Raises:
        WavegenError: no such folder, no pair, a synthesis without reference, different rates; as `evaluate`.
    """
    originals, copies = _sounds(reference), _sounds(synthesized)
    if strays := sorted(copies.keys() - originals.keys()):
        raise WavegenError(
            f"{synthesized} holds {_names(strays)} without a counterpart in {reference}; remove or rename them"
        )
    texts = texts or {}

    def takes() -> Iterator[Take]:
        for id, path in copies.items():
            (wav, found), (sound, other) = (read(originals[id], rate=rate), read(path, rate=rate))
            if found != other:
                raise WavegenError(f"{originals[id]} has {found} Hz and {path} {other} Hz; give a rate for both")
            if texts:
                yield Take(id, wav, wav, found, RECORDINGS, texts.get(id, ""))
            yield Take(id, wav, sound, found, text=texts.get(id, ""))

    left = sorted(originals.keys() - copies.keys())
    notes = [f"Not synthesized: {_names(left)}."] if left else []
    total = len(copies) * (2 if texts else 1)
    return _saved(evaluate(takes(), metrics=metrics, group=group, total=total, notes=notes), out)


def _sounds(folder: Path | str) -> dict[str, Path]:
    """The sound files right in a folder, by name without suffix."""
    if not Path(folder).is_dir():
        raise WavegenError(f"no folder at {folder}; check the path")
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise WavegenError(f"{folder} holds {found[path.stem].name} and {path.name}; keep one of them")
            found[path.stem] = path
    if not found:
        raise WavegenError(f"{folder} holds no sound files; expected {', '.join(sorted(SUFFIXES))}")
    return found


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _timed(synthesize: Synthesize, mel: Float[Tensor, "1 M F"]) -> tuple[Float[Tensor, " T"], float]:
    """The sound on the CPU and the seconds until it was there."""
    start = time.perf_counter()
    with torch.inference_mode():
        sound = synthesize(mel)[0].cpu().float()
    return sound, time.perf_counter() - start


def _saved(evaluation: Evaluation, out: Path | str | None) -> Evaluation:
    if out is not None:
        evaluation.save(out)
    return evaluation
