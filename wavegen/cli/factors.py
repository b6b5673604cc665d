"""What is known of clips, by a table or by their names."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from wavegen.errors import WavegenError

__all__ = ["read_factors"]


def read_factors(source: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """Factors of clips by a table or a regular expression."""
    rows = _table(Path(source), ids) if source.endswith(".csv") else _matches(source, ids)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _matches(pattern: str, ids: Sequence[str]) -> list[dict[str, str]]:
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise WavegenError(f"got the pattern {pattern!r}, expected a regular expression ({error}); mend it") from error
    if not expression.groupindex:
        raise WavegenError(f"got the pattern {pattern!r}, expected named groups; write (?P<speaker>...) for a factor")
    found = [expression.fullmatch(id) for id in ids]
    for id, match in zip(ids, found, strict=True):
        if match is None:
            raise WavegenError(f"got the clip {id!r}, expected one that {pattern!r} matches; mend it or use --split")
    return [match.groupdict("") for match in found if match]


def _table(file: Path, ids: Sequence[str]) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            header, *lines = csv.reader(opened)
        rows = {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines if line}
    except (OSError, ValueError, csv.Error) as error:
        raise WavegenError(f"{file} is no table of factors ({error}); write id,name,... and a line a clip") from error
    missing = [id for id in ids if id not in rows]
    if missing or header[:1] != ["id"] or len(set(header[1:])) != len(header) - 1 or len(header) < 2:
        got = f"no line for {missing[0]!r}" if missing else f"the first line {','.join(header)!r}"
        raise WavegenError(f"{file} has {got}, expected id,name,... and then a line for every clip; mend it")
    return [rows[id] for id in ids]
