"""Many clips, many systems, one table: measure takes, and write the report as JSON, Markdown and a picture."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError
from wavegen.evaluation.bootstrap import Interval, bootstrap
from wavegen.evaluation.likelihood import bits_per_sample
from wavegen.evaluation.metrics import METRICS, Unmeasurable, Wav
from wavegen.evaluation.picture import draw
from wavegen.evaluation.recognition import transcribe, word_errors
from wavegen.evaluation.tones import tones

__all__ = ["Evaluation", "Scores", "Take", "evaluate"]


@dataclass(frozen=True, eq=False)
class Take:
    """One clip by one system, beside the recording; both sounds 1-D in [-1, 1] at `rate` Hz.

    `text` is what is said ("" when unknown), `seconds` how long the synthesis took, `nats` the mean negative log
    density per sample that the system gives the recording.
    """

    id: str
    reference: Wav
    synthesized: Wav
    rate: int
    system: str = "synthesized"
    text: str = ""
    seconds: float | None = None
    nats: float | None = None


class Scores(NamedTuple):
    """What was measured on one take: by metric a (value, weight), or the reason why there is none."""

    system: str
    id: str
    values: dict[str, tuple[float, float]]
    missing: dict[str, str]


class Column(NamedTuple):
    """How a metric appears in a table."""

    title: str
    unit: str = ""
    better: str = ""
    digits: int = 3

    @property
    def heading(self) -> str:
        arrow = {"higher": " ↑", "lower": " ↓"}.get(self.better, "")
        return self.title + (f" ({self.unit})" if self.unit else "") + arrow


COLUMNS = {
    "pesq": Column("PESQ-WB", "MOS-LQO", "higher", 2),
    "stoi": Column("STOI", "", "higher", 3),
    "mcd": Column("MCD", "dB", "lower", 2),
    "log_f0_rmse": Column("log-F0 RMSE", "ln Hz", "lower", 3),
    "vuv_error": Column("V/UV error", "share of frames", "lower", 3),
    "multi_resolution_stft": Column("M-STFT", "", "lower", 2),
    "whistle": Column("whistle", "dB", "lower", 1),
    "wer": Column("WER", "errors per word", "lower", 3),
    "bits": Column("bits", "per 16-bit sample", "lower", 2),
    "rtf": Column("RTF", "s per s of sound", "lower", 3),
}


@dataclass(frozen=True)
class Evaluation:
    """The scores of every take and what they amount to, by system and metric.

    Means have 95 % bootstrap intervals over clips; WER, RTF and bits are totals over totals (errors over words,
    computing over sound, bits over samples).
    """

    scores: Sequence[Scores]
    pictured: Sequence[Take] = field(default=(), repr=False)
    notes: Sequence[str] = ()

    @cached_property
    def summary(self) -> dict[str, dict[str, Interval]]:
        """system -> metric -> mean and interval, for every metric with a value on at least one clip."""
        return {
            system: {
                metric: bootstrap(*zip(*(s.values[metric] for s in rows if metric in s.values), strict=True))
                for metric in self.metrics
                if any(metric in s.values for s in rows)
            }
            for system, rows in self._by_system.items()
        }

    @cached_property
    def metrics(self) -> list[str]:
        """The names of all metrics tried, in the order of the table."""
        tried = dict.fromkeys(name for s in self.scores for name in (*s.values, *s.missing))
        return sorted(tried, key=lambda name: list(COLUMNS).index(name) if name in COLUMNS else len(COLUMNS))

    @cached_property
    def _by_system(self) -> dict[str, list[Scores]]:
        names = dict.fromkeys(s.system for s in self.scores)
        return {name: [s for s in self.scores if s.system == name] for name in names}

    def to_json(self) -> str:
        """Summary, definitions of the columns, and every clip with what is missing and why; no NaN inside."""
        whole = {
            "systems": {system: {name: self._entry(system, name) for name in self.metrics} for system in self.summary},
            "columns": {name: _column(name)._asdict() for name in self.metrics},
            "notes": list(self.notes),
            "clips": [
                {"system": s.system, "id": s.id, "missing": s.missing}
                | {"scores": {name: value / weight for name, (value, weight) in s.values.items()}}
                for s in self.scores
            ],
        }
        return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False)

    def _entry(self, system: str, name: str) -> dict[str, float | None]:
        interval = self.summary[system].get(name)
        bounds: dict[str, float | None] = dict.fromkeys(Interval._fields)
        if interval:
            bounds.update(interval._asdict())
        rows = self._by_system[system]
        return bounds | {"clips": sum(name in s.values for s in rows), "missing": sum(name in s.missing for s in rows)}

    def to_markdown(self) -> str:
        """A table with a row for each system and a column for each metric, and what was missing below it."""
        lines = [
            ["system", *(_column(name).heading for name in self.metrics)],
            ["---"] * (len(self.metrics) + 1),
            *(
                [system, *(_cell(row.get(name), _column(name).digits) for name in self.metrics)]
                for system, row in self.summary.items()
            ),
        ]
        told = [
            f"Mean [95 % interval, bootstrap over clips]; {len({s.id for s in self.scores})} clips.",
            *self._gaps(),
            *self.notes,
        ]
        return "\n".join(
            ["| " + " | ".join(cells) + " |" for cells in lines] + ["", *(f"- {line}" for line in told), ""]
        )

    def _gaps(self) -> list[str]:
        """One line for each system and metric without a value on some clips, with the first reason."""
        gaps = []
        for system, rows in self._by_system.items():
            for name in self.metrics:
                reasons = [f"{s.missing[name]} ({s.id})" for s in rows if name in s.missing]
                if reasons:
                    missing = f"is missing on {len(reasons)} of {len(rows)} clips: {reasons[0]}"
                    gaps.append(f"{_column(name).title} of {system} {missing}")
        return gaps

    def save(self, out: Path | str) -> None:
        """Write evaluation.json, evaluation.md and evaluation.png (spectrograms of the first clips) into a folder.

        Raises:
            WavegenError: unwritable folder or full disk.
        """
        for name, text in (("evaluation.json", self.to_json()), ("evaluation.md", self.to_markdown())):
            with write_aside(Path(out) / name) as aside:
                aside.write_text(text, encoding="utf-8")
        if self.pictured:
            draw(self.pictured, Path(out) / "evaluation.png")


def evaluate(
    takes: Iterable[Take],
    *,
    metrics: Mapping[str, Callable[[Wav, Wav, int], float]] = METRICS,
    group: int = 8,
    total: int | None = None,
    pictures: int = 2,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Measure every take as it comes; `pictures` clips are kept for the picture, `total` is for the progress bar.

    The whistle of a take is the loudest of its `tones`, at multiples of the rate over `group`; WER is measured where
    there is a text, RTF and bits where the take tells them.

    Raises:
        WavegenError: no take, a group that cannot be, NaN, lengths too far apart, a missing package; the clip is named.
    """
    scores: list[Scores] = []
    pictured: dict[str, list[Take]] = {}
    for take in tqdm(takes, desc="evaluate", total=total, unit="clip", delay=1, disable=None):
        try:
            scores.append(_measure(take, metrics, group))
        except WavegenError as error:
            raise WavegenError(f"{take.id} ({take.system}): {error}") from error
        if take.id in pictured or len(pictured) < pictures:
            pictured.setdefault(take.id, []).append(take)
    if not scores:
        raise WavegenError("got no clip to evaluate, expected at least one; check the list or the folder")
    return Evaluation(scores, [take for same in pictured.values() for take in same], notes)


def _measure(take: Take, metrics: Mapping[str, Callable[[Wav, Wav, int], float]], group: int) -> Scores:
    """Every metric of one take; those of the take itself are (total, total) so that long clips weigh more."""

    def measured(metric: Callable[[Wav, Wav, int], float]) -> tuple[float, float]:
        value = float(metric(take.reference, take.synthesized, take.rate))
        if not math.isfinite(value):
            raise Unmeasurable(f"the metric gave {value}")
        return value, 1.0

    samples = len(take.reference)
    tried: dict[str, Callable[[], tuple[float, float]]] = {
        name: partial(measured, metric) for name, metric in metrics.items()
    }
    tried["whistle"] = lambda: (float(tones(take.synthesized, take.rate, group=group).max()), 1.0)
    if take.text:
        tried["wer"] = lambda: word_errors(take.text, transcribe(take.synthesized, take.rate))
    if (seconds := take.seconds) is not None:
        tried["rtf"] = lambda: (seconds, samples / take.rate)
    if (nats := take.nats) is not None:
        tried["bits"] = lambda: (bits_per_sample(-nats) * samples, samples)
    scores = Scores(take.system, take.id, {}, {})
    for name, score in tried.items():
        try:
            scores.values[name] = score()
        except Unmeasurable as error:
            scores.missing[name] = str(error)
    return scores


def _column(name: str) -> Column:
    return COLUMNS.get(name, Column(name))


def _cell(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    mean, low, high = (f"{value:.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"
