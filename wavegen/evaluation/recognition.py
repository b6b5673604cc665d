"""How much of the text a machine still understands: word error rate by an offline recognizer.

The rate is relative: report it beside that of the recordings, and never across voices.
"""

from collections.abc import Iterable

import numpy as np

from wavegen.errors import WavegenError
from wavegen.evaluation.metrics import Unmeasurable, Wav, checked, require, resampled

__all__ = ["transcribe", "wer", "word_errors"]

RATE = 16000


def transcribe(wav: Wav, rate: int) -> str:
    """The words pocketsphinx hears with its own US-English model, in lower case; "" for silence.

    Each call loads the recognizer anew (0.2 s; decoding takes another 0.1 s for a second of sound): one that has heard
    noise before hears the next clip differently, and a score must not depend on the order of the clips.

    Raises:
        WavegenError: the package is missing, NaN, a rate under 8 kHz.
        Unmeasurable: too short.
    """
    sound = resampled(checked(wav, rate), rate, RATE)
    if np.abs(sound).max() < 2**-15:
        return ""  # the recognizer would imagine a word
    decoder = require("pocketsphinx").Decoder(samprate=RATE, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(np.rint(sound.clip(-1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return heard.hypstr if heard else ""


def wer(texts: Iterable[str], hypotheses: Iterable[str]) -> float:
    """Word error rate of a whole set: errors of all pairs over words of all texts (by jiwer); can exceed 1.

    Raises:
        WavegenError: jiwer is missing, numbers of texts and hypotheses differ, or a text without words.
    """
    texts, hypotheses = list(texts), list(hypotheses)
    if len(texts) != len(hypotheses) or not texts:
        raise WavegenError(f"got {len(texts)} texts and {len(hypotheses)} hypotheses, expected as many, at least one")
    errors, words = np.sum([word_errors(*pair) for pair in zip(texts, hypotheses, strict=True)], axis=0)
    return float(errors / words)


def word_errors(text: str, hypothesis: str) -> tuple[int, int]:
    """Words substituted, deleted and inserted, and words of the text.

    Case and punctuation do not count, a hyphen or dash parts words; numbers should be spelled out.

    Raises:
        WavegenError: jiwer is missing.
        Unmeasurable: a text without words.
    """
    jiwer = require("jiwer")
    plain = jiwer.Compose(
        [
            jiwer.SubstituteRegexes({r"[-\u2010-\u2015_/]+": " "}),
            jiwer.ToLowerCase(),
            jiwer.RemovePunctuation(),
            jiwer.RemoveMultipleSpaces(),
            jiwer.Strip(),
        ]
    )
    text, hypothesis = plain(text), plain(hypothesis)
    if not text:
        raise Unmeasurable("got a text without words, expected what the recording says; leave the clip out")
    found = jiwer.process_words(text, hypothesis)
    return found.substitutions + found.deletions + found.insertions, len(text.split())
