"""Recordings: find them, fetch them, audit them, and cut them into batches."""

from wavegen.data.batches import Batches, Prefetch, validation
from wavegen.data.check import Finding, Report, check
from wavegen.data.corpus import Clip, Corpus
from wavegen.data.ljspeech import download
from wavegen.data.utterances import Utterances

__all__ = [
    "Batches",
    "Clip",
    "Corpus",
    "Finding",
    "Prefetch",
    "Report",
    "Utterances",
    "check",
    "download",
    "validation",
]
