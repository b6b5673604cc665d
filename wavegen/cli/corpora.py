"""`wavegen data`: recordings to train on."""

import sys
from pathlib import Path

from wavegen.cli.options import Count
from wavegen.errors import WavegenError

__all__ = ["check", "download"]


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
