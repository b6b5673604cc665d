"""How good a vocoder is: distances to the recording, words understood, likelihood, speed, and a report of them all."""

from wavegen.evaluation.compare import compare, evaluate_folders, evaluate_vocoder
from wavegen.evaluation.likelihood import bits_per_sample, likelihood
from wavegen.evaluation.report import Evaluation, Take, evaluate
from wavegen.evaluation.tones import tones

__all__ = [
    "Evaluation",
    "Take",
    "bits_per_sample",
    "compare",
    "evaluate",
    "evaluate_folders",
    "evaluate_vocoder",
    "likelihood",
    "tones",
]
