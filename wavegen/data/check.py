"""The audit before training: what is wrong with a corpus, clip by clip, in one table."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from wavegen.audio.files import info, read
from wavegen.data.corpus import Clip, Corpus, survey
from wavegen.errors import WavegenError

__all__ = ["Finding", "Report", "check"]

FULL_SCALE = 32767 / 32768
SHOWN = 20  # findings of one kind in the printed table

Severity = Literal["fatal", "warning"]
Verdict = tuple[str, Severity, str]  # problem, severity, detail


@dataclass(frozen=True)
class Finding:
    """One problem of one clip. Training on a "fatal" one fails or learns nonsense; a "warning" may be intended."""

    id: str
    problem: str
    severity: Severity
    detail: str


@dataclass(frozen=True)
class Report:
    """What `check` found; printing it gives a table. `rates` counts clips by Hz, `peak` is the largest magnitude."""

    folder: Path
    clips: int
    hours: float
    rates: dict[int, int]
    peak: float
    findings: tuple[Finding, ...]

    @property
    def fatal(self) -> bool:
        """Whether any finding is fatal."""
        return any(finding.severity == "fatal" for finding in self.findings)

    def __str__(self) -> str:
        rates = ", ".join(f"{rate} Hz" + f" ({n} clips)" * (len(self.rates) > 1) for rate, n in self.rates.items())
        kinds = Counter((finding.severity, finding.problem) for finding in self.findings)
        facts = f"{self.clips} clips, {self.hours:.2f} h, {rates or 'no rate'}, peak {self.peak:.3f}"
        lines = [f"{_printable(str(self.folder))}: {facts}", *_table(self.findings)]
        lines += [f"{severity}: {problem}, {count} in all" for (severity, problem), count in kinds.items()]
        return "\n".join(lines if kinds else [*lines, "no problem found"])


class Measure(NamedTuple):
    """What the samples of a clip say; `damage` is why there are none."""

    rate: int = 0
    channels: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    mean: float = 0.0
    clipped: int = 0
    digest: str = ""
    damage: str = ""


def check(
    corpus: Corpus | Path | str,
    *,
    rate: int | None = None,
    shortest: float = 0.1,
    longest: float = 30.0,
    workers: int | None = None,
) -> Report:
    """Audit a corpus or its folder; every sample is decoded, in `workers` threads (one a core).

    Fatal: unreadable, truncated or empty audio, another rate than `rate` (the commonest one if not given), NaN or
    infinite samples, all zero, shorter than `shortest` seconds, a metadata line that is malformed, repeated, without
    text or without audio, the same audio under two texts. Warnings: clipping, longer than `longest`, nearly silent,
    DC offset, several channels, the same audio twice, audio that metadata.csv does not name.

    Raises:
        WavegenError: no such folder, or no audio in it.
    """
    folder, clips, findings = _listed(corpus)
    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        measures = list(tqdm(threads.map(_measure, clips), "check", total=len(clips), unit="clip", delay=1))
    rates = Counter(measure.rate for measure in measures if not measure.damage)
    expected = rate or max(rates, key=lambda rate: rates[rate], default=0)
    for clip, measure in zip(clips, measures, strict=True):
        verdicts = _judge(measure, rate=expected, shortest=shortest, longest=longest)
        findings += [Finding(clip.id, *verdict) for verdict in verdicts]
    findings += _repeated(clips, measures)
    return Report(
        folder=folder,
        clips=len(clips),
        hours=sum(measure.seconds for measure in measures) / 3600,
        rates=dict(rates.most_common()),
        peak=max((measure.peak for measure in measures), default=0.0),
        findings=tuple(sorted(findings, key=lambda finding: (finding.severity, finding.problem, finding.id))),
    )


def _listed(corpus: Corpus | Path | str) -> tuple[Path, Sequence[Clip], list[Finding]]:
    """The clips, and what is wrong before any of them is decoded."""
    if isinstance(corpus, Corpus):
        folder, clips, transcribed = corpus.folder, list(corpus), any(clip.text for clip in corpus)
        findings = []
    else:
        folder = Path(corpus)
        clips, faults, unlisted, transcribed = survey(folder)
        findings = [Finding(fault.id, fault.problem, "fatal", fault.detail) for fault in faults]
        findings += [Finding(id, "not listed", "warning", "metadata.csv has no such id") for id in unlisted]
    mute = [clip.id for clip in clips if transcribed and not clip.text]
    findings += [Finding(id, "no transcript", "fatal", "its text in metadata.csv is empty; write it") for id in mute]
    return folder, clips, findings


def _measure(clip: Clip) -> Measure:
    try:
        channels = info(clip.path).channels
        wav, rate = read(clip.path)
    except (WavegenError, OSError) as error:
        return Measure(damage=str(error))
    full = wav.abs() >= FULL_SCALE
    return Measure(
        rate=rate,
        channels=channels,
        seconds=len(wav) / rate,
        peak=float(wav.abs().max()),
        mean=float(wav.mean()),
        clipped=int((full[:-2] & full[1:-1] & full[2:]).sum()),
        digest=hashlib.sha256(wav.numpy().tobytes()).hexdigest(),
    )


def _judge(got: Measure, *, rate: int, shortest: float, longest: float) -> Iterator[Verdict]:
    """What is wrong with one clip by itself."""
    if got.damage:
        yield "damaged", "fatal", got.damage
        return
    if got.rate != rate:
        yield "wrong rate", "fatal", f"{got.rate} Hz, expected {rate} Hz; resample it"
    if got.peak == 0:
        yield "all zero", "fatal", "every sample is zero; record or convert it again"
    elif got.peak < 0.01:
        yield ("nearly silent", "warning", f"peak {got.peak:.4f}, below -40 dB of full scale")
    if got.seconds < shortest:
        yield ("too short", "fatal", f"{got.seconds:.3f} s, expected at least {shortest:g} s")
    if got.seconds > longest:
        yield ("long", "warning", f"{got.seconds:.1f} s, more than {longest:g} s; consider cutting it at a pause")
    if got.clipped:
        yield ("clipping", "warning", f"{got.clipped} times three samples in a row at full scale")
    if abs(got.mean) > 0.01:
        yield ("DC offset", "warning", f"mean {got.mean:+.3f}; subtract it or filter below 20 Hz")
    if got.channels > 1:
        yield ("channels", "warning", f"{got.channels} channels, which training averages to one")


def _repeated(clips: Sequence[Clip], measures: Sequence[Measure]) -> Iterator[Finding]:
    """Clips whose samples an earlier clip has already."""
    first: dict[str, Clip] = {}
    for clip, measure in zip(clips, measures, strict=True):
        earlier = first.setdefault(measure.digest, clip)
        if earlier is clip or not measure.peak:
            continue
        other = clip.text != earlier.text
        detail = f"the same sound as {earlier.id!r}" + " under another text; one of the texts is wrong" * other
        yield Finding(clip.id, "duplicate audio", "fatal" if other else "warning", detail)


def _table(findings: Sequence[Finding]) -> list[str]:
    """Aligned lines, the first `SHOWN` of each kind."""
    seen: Counter[str] = Counter()
    rows = [("severity", "problem", "clip", "detail")] if findings else []
    for finding in findings:
        seen[finding.problem] += 1
        if seen[finding.problem] <= SHOWN:
            rows.append((finding.severity, finding.problem, _printable(finding.id), _printable(finding.detail)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]


def _printable(text: str) -> str:
    """Text without the control characters by which a file name could drive the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
