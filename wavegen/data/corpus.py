"""A corpus: recordings with their ids and transcripts, in the LJSpeech layout or any folder of audio."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple, overload

from tqdm import tqdm

from wavegen.audio.files import Info, info
from wavegen.errors import WavegenError

__all__ = ["Clip", "Corpus", "Fault", "Survey", "survey"]

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"))


@dataclass(frozen=True)
class Clip:
    """One recording. `id` is its path below the audio folder without the suffix, `text` its transcript or ""."""

    id: str
    path: Path
    text: str = ""


class Fault(NamedTuple):
    """Why a folder is not a whole corpus; `detail` is a sentence with its remedy."""

    id: str
    problem: str
    detail: str


class Survey(NamedTuple):
    """Everything found in a folder: the good clips, the faults, and audio that no line of metadata.csv names."""

    clips: list[Clip]
    faults: list[Fault]
    unlisted: list[str]
    transcribed: bool  # there is a metadata.csv, so a clip without text lacks one


@dataclass(frozen=True, repr=False)
class Corpus(Sequence[Clip]):
    """A sequence of clips; a slice of a corpus is a corpus."""

    folder: Path
    clips: tuple[Clip, ...]

    @classmethod
    def open(cls, folder: Path | str, split: Path | str | None = None) -> "Corpus":
        """Read the LJSpeech layout, or every audio file below a folder that has no `metadata.csv`.

        The layout is `metadata.csv` with lines of `id|text|normalised text`, and `wavs/ID.wav`, FLAC, ...

        `split` is a list file, in the folder or anywhere: the ids before the first `|` of its lines, in their order.

        Raises:
            WavegenError: no such folder, no audio, a malformed line, a line without audio, a duplicate or escaping
                id, a split that names unknown ids.
        """
        folder = Path(folder)
        found = survey(folder)
        if found.faults:
            more = f" ({len(found.faults) - 1} more; `wavegen data check` lists them)" if len(found.faults) > 1 else ""
            raise WavegenError(found.faults[0].detail + more)
        if not found.clips:
            raise WavegenError(f"{folder} names no clip, expected at least one; fill its metadata.csv or remove it")
        corpus = cls(folder, tuple(found.clips))
        return corpus if split is None else corpus.subset(split)

    def subset(self, split: Path | str) -> "Corpus":
        """The clips whose ids the list file names, in its order. Errors as `open`."""
        path = self.folder / split if (self.folder / split).is_file() else Path(split)
        ids = [line.split("|", 1)[0].strip() for _, line in _lines(path)]
        clips = {clip.id: clip for clip in self.clips}
        unknown = [id for id in ids if id not in clips]
        if unknown:
            raise WavegenError(
                f"{path} names {len(unknown)} clips that {self.folder} lacks, {_some(unknown)}; "
                "make the list of this corpus, one id a line"
            )
        twice = [id for id, count in Counter(ids).items() if count > 1]
        if twice or not ids:
            got = f"{_some(twice)} more than once" if twice else "no id"
            raise WavegenError(f"{path} names {got}, expected every id once; edit the list")
        return type(self)(self.folder, tuple(clips[id] for id in ids))

    def where(self, keep: Callable[[Clip], bool]) -> "Corpus":
        """The clips of which `keep` holds, in their order; there may be none."""
        return type(self)(self.folder, tuple(clip for clip in self.clips if keep(clip)))

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> "Corpus": ...
    def __getitem__(self, index: int | slice) -> "Clip | Corpus":
        return type(self)(self.folder, self.clips[index]) if isinstance(index, slice) else self.clips[index]

    def __repr__(self) -> str:
        ends = f", {self[0].id!r} ... {self[-1].id!r}" if self.clips else ""
        return f"Corpus({str(self.folder)!r}, {len(self)} clips{ends})"

    @cached_property
    def headers(self) -> tuple[Info, ...]:
        """The header of every clip, read once, on first use.

        Raises:
            WavegenError: a file is unreadable.
        """
        return tuple(info(clip.path) for clip in tqdm(self.clips, "headers", leave=False, delay=1))

    @cached_property
    def rate(self) -> int:
        """The sampling rate of every clip in Hz, checked on first use.

        Raises:
            WavegenError: the corpus is empty, a file is unreadable, or the rates are mixed.
        """
        example = {header.rate: clip.id for clip, header in zip(self.clips, self.headers, strict=True)}
        if len(example) != 1:
            got = ", ".join(f"{rate} Hz ({id!r})" for rate, id in sorted(example.items())) or "no clip"
            raise WavegenError(f"{self.folder} has {got}, expected one rate; resample the corpus to one of them")
        return next(iter(example))

    @property
    def hours(self) -> float:
        """Length of all the clips together, by their headers. Errors as `headers`."""
        return sum(header.frames / header.rate for header in self.headers) / 3600


def survey(folder: Path) -> Survey:
    """Look over a folder without stopping at the first fault. Raises WavegenError if there is no audio at all."""
    if not folder.is_dir():
        raise WavegenError(f"no folder at {folder}; name the folder of a corpus")
    metadata = folder / "metadata.csv"
    transcribed = metadata.is_file()
    audio = folder / "wavs" if transcribed else folder
    paths, faults = _index(audio)
    if not paths:
        raise WavegenError(f"no audio below {audio}, expected WAV, FLAC or another format of libsndfile; add some")
    if not transcribed:
        return Survey([Clip(id, path) for id, path in paths.items()], faults, [], transcribed)
    clips: dict[str, Clip] = {}
    for number, line in _lines(metadata):
        row = _row(line, number=number, metadata=metadata, paths=paths, seen=clips)
        if isinstance(row, Fault):
            faults.append(row)
        else:
            clips[row.id] = row
    return Survey(list(clips.values()), faults, [id for id in paths if id not in clips], transcribed)


def _row(line: str, *, number: int, metadata: Path, paths: dict[str, Path], seen: dict[str, Clip]) -> Clip | Fault:
    """The clip of one line of metadata.csv, or what is wrong with the line."""
    id, *texts = (cell.strip() for cell in line.split("|"))
    where = f"line {number} of {metadata}"
    if not id or len(texts) not in (1, 2):
        shown = line if len(line) <= 60 else line[:57] + "..."
        expected = "id|text|normalised text; mend the line (no other |, no header)"
        return Fault(id, "malformed line", f"{where} is {shown!r}, expected {expected}")
    if PurePosixPath(id).is_absolute() or ".." in PurePosixPath(id).parts or "\\" in id or "\0" in id:
        return Fault(id, "id outside", f"{where} has the id {id!r}, expected a name below wavs/; rename the clip")
    if id in seen:
        return Fault(id, "duplicate id", f"{where} names {id!r} again, expected every id once; remove one of the lines")
    if id not in paths:
        return Fault(
            id, "no audio", f"{where} names {id!r} but there is no such file in wavs/; add it or drop the line"
        )
    return Clip(id, paths[id], texts[-1] or texts[0])


def _index(folder: Path) -> tuple[dict[str, Path], list[Fault]]:
    """Audio files below a folder by id, sorted; hidden ones are skipped, links to folders are not followed."""
    paths: dict[str, Path] = {}
    faults = []
    for path in sorted(_audio(folder)):
        id = path.relative_to(folder).with_suffix("").as_posix()
        if id in paths:
            detail = f"{paths[id]} and {path.name} share the id {id!r}, expected one file an id; remove one"
            faults.append(Fault(id, "duplicate id", detail))
        paths.setdefault(id, path)
    return paths, faults


def _audio(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(parent, name)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a text file that are not blank. Raises WavegenError: unreadable, not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise WavegenError(f"{path} is not UTF-8 text ({error.reason}); convert it") from error
    except OSError as error:
        raise WavegenError(f"cannot read {path}: {error.strerror}; name a list file, one id a line") from error


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
