"""Fetch LJSpeech: resumed where the line was cut, verified before it is unpacked, and never half there."""

import hashlib
import re
import shutil
import tarfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zlib import error as ZlibError

from tqdm import tqdm

from wavegen.errors import WavegenError

__all__ = ["download", "extract", "fetch"]

BLOCK = 1 << 18
TIMEOUT = 30  # seconds without a byte before the line counts as cut
FACTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("corpora.toml").read_text(encoding="utf-8"))["ljspeech"]


def download(
    out: Path | str,
    *,
    archive: Path | str | None = None,
    url: str = FACTS["url"],
    sha256: str = FACTS["sha256"],
    size: int = FACTS["size"],
    unpacked: int = FACTS["unpacked"],
    retries: int = 8,
    pause: float = 1.0,
) -> Path:
    """Put LJSpeech into `out`/LJSpeech-1.1, ready for `Corpus.open`, and return that folder; there already, do nothing.

    2.7 GB are fetched and 3.8 GB unpacked; the archive is removed afterwards. `archive` is a copy you have, which is
    verified and kept. A mirror is another `url`; `size` and `unpacked` are in bytes. Call it again to resume.

    Raises:
        WavegenError: no connection, wrong bytes, an archive that is not LJSpeech, no space, unwritable folder.
    """
    out = Path(out)
    corpus = out / FACTS["folder"]
    if (corpus / "metadata.csv").is_file() and (corpus / "wavs").is_dir():
        return corpus
    if corpus.exists():
        raise WavegenError(f"{corpus} exists and is not LJSpeech (no metadata.csv and wavs/); move it away")
    with _disk(out):
        out.mkdir(parents=True, exist_ok=True)
    source = Path(archive) if archive is not None else out / f"{corpus.name}.tar.bz2.part"
    if archive is None:
        _check_space(out, unpacked + size - _length(source))
        fetch(url, source, size=size, retries=retries, pause=pause)
    elif not source.is_file():
        raise WavegenError(f"no archive at {source}; name the LJSpeech tarball or leave it out to download")
    _verify(source, sha256, remove=archive is None)
    _check_space(out, unpacked)
    extract(source, out, folder=corpus.name, limit=unpacked)
    if archive is None:
        source.unlink()
    return corpus


class _Discontinued(HTTPException):
    """The server cannot continue what we have of the file."""


def fetch(url: str, part: Path, *, size: int, retries: int = 8, pause: float = 1.0) -> None:
    """Append to `part` until it has `size` bytes. A cut line is tried again after `pause` seconds, then twice that, ...

    Gives up after `retries` attempts in a row that brought nothing. What arrived stays, for the next call.

    Raises:
        WavegenError: not http(s), no connection, a refusal (404), more than `size` bytes, no space, unwritable.
    """
    if not url.startswith(("https://", "http://")):
        raise WavegenError(f"got the URL {url!r}, expected https://...; name a web address or pass archive=")
    if _length(part) > size:
        _discard(part)
    failures, best = 0, _length(part)
    with tqdm(total=size, initial=_length(part), unit="B", unit_scale=True, desc=Path(url).name) as bar:
        while _length(part) != size:
            reason = _attempt(url, part, size=size, bar=bar)
            if _length(part) > size:
                _discard(part)
                raise WavegenError(f"{url} sends more than {size} bytes, expected the corpus; name the right URL")
            if not reason:
                continue
            failures = 0 if _length(part) > best else failures + 1
            best = max(best, _length(part))
            if failures > retries:
                raise WavegenError(
                    f"{url} gave up at {_length(part)} of {size} bytes ({reason}); check the connection and run it "
                    "again to resume, or pass archive="
                )
            time.sleep(min(pause * 2 ** max(failures - 1, 0), 60))


def _attempt(url: str, part: Path, *, size: int, bar: "tqdm[Any]") -> str:
    """One request for what is missing; returns why it ended early, or "" when the file is whole."""
    have = _length(part)
    headers = {"User-Agent": "wavegen", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as reply:
            bar.n = start = _start(reply, have=have, size=size)
            with _disk(part):
                file = part.open("r+b" if start else "wb")
            with file:
                file.seek(start)
                return _pour(reply, file, size=size, bar=bar)
    except HTTPError as error:
        if error.code not in (408, 416, 429) and error.code < 500:
            raise WavegenError(
                f"{url} answers {error.code} {error.reason}, expected the file; name a mirror or pass archive="
            ) from error
        if error.code == 416:
            _discard(part)
        return f"{error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        if isinstance(error, _Discontinued):
            _discard(part)
        return str(getattr(error, "reason", None) or error or type(error).__name__)


def _discard(part: Path) -> None:
    """Begin anew: the server cannot continue what we have, which is of another file or longer than the right one."""
    with _disk(part):
        part.unlink(missing_ok=True)


def _start(reply: HTTPResponse, *, have: int, size: int) -> int:
    """The offset of the first byte that a reply holds: `have` where the server resumes, 0 where it starts over."""
    if reply.status != 206:
        return 0
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    if not match or int(match[1]) != have or match[2] not in ("*", str(size)):
        raise _Discontinued(f"Content-Range {reply.headers.get('Content-Range')!r} does not continue {have} of {size}")
    return have


def _pour(reply: HTTPResponse, file: IO[bytes], *, size: int, bar: "tqdm[Any]") -> str:
    """Copy the reply to the file, until that is longer than `size`; returns why it is shorter, or ""."""
    while file.tell() <= size and (block := reply.read(BLOCK)):
        with _disk(Path(file.name)):
            file.write(block)
            file.flush()
        bar.update(len(block))
    return "" if file.tell() >= size else "the connection was cut"


def extract(archive: Path, out: Path, *, folder: str, limit: int) -> None:
    """Unpack `archive` beside and rename its `folder` to `out`/`folder`, which so appears whole or not at all.

    Raises:
        WavegenError: damaged, not a tarball of `folder`, links, devices or names outside, more than `limit` bytes.
    """
    aside = out / f".{folder}.part"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        with _disk(out):
            aside.mkdir()
        _unpack(archive, aside, limit=limit)
        if not ((aside / folder / "metadata.csv").is_file() and (aside / folder / "wavs").is_dir()):
            raise WavegenError(f"{archive} has no {folder}/metadata.csv and wavs/, expected LJSpeech; name its tarball")
        with _disk(out):
            (aside / folder).rename(out / folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack(archive: Path, aside: Path, *, limit: int) -> None:
    total = 0
    try:
        with (
            tarfile.open(archive, "r|*") as tar,
            tqdm(total=limit, unit="B", unit_scale=True, desc="unpack", delay=1) as bar,
        ):
            for member in tar:
                total += member.size
                if total > limit or not (member.isfile() or member.isdir()):
                    got = "a link or device" if total <= limit else f"more than {limit} bytes"
                    raise WavegenError(f"{archive} unpacks to {got}, expected plain files; it is not the corpus")
                tar.extract(member, aside, filter="data")
                bar.update(member.size)
    except (tarfile.TarError, EOFError, LZMAError, ZlibError) as error:
        raise WavegenError(f"{archive} is not a whole, safe tarball ({error}); fetch it again") from error
    except OSError as error:  # a damaged bz2 stream has no errno, a full disk has
        remedy = "name a writable folder with free space" if error.errno else "fetch it again"
        raise WavegenError(f"cannot unpack {archive}: {error.strerror or error}; {remedy}") from error


def _verify(path: Path, sha256: str, *, remove: bool) -> None:
    """Refuse, and `remove`, a file of another digest."""
    digest = hashlib.sha256()
    with (
        _disk(path),
        path.open("rb") as file,
        tqdm(total=_length(path), unit="B", unit_scale=True, desc="verify", delay=1) as bar,
    ):
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != sha256.lower():
        if remove:
            path.unlink()
        remedy = "it was removed, download again" if remove else "fetch it again"
        raise WavegenError(f"{path} has the SHA-256 {digest.hexdigest()}, expected {sha256}; {remedy}")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_space(out: Path, need: int) -> None:
    free = shutil.disk_usage(out).free
    if free < need:
        raise WavegenError(
            f"{out} has {free / 1e9:.1f} GB free, expected {need / 1e9:.1f} GB; free some or name another folder"
        )


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """An error of the disk, unlike one of the line, is final."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise WavegenError(f"cannot write {path}: {reason}; name a writable folder with free space") from error
