"""The download against a real server that cuts the line, sends wrong bytes, resumes, or refuses to."""

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavegen.data import Corpus, download
from wavegen.data.ljspeech import FACTS, fetch
from wavegen.errors import WavegenError

Answer = Callable[[BaseHTTPRequestHandler, bytes, int], None]  # handler, the file, first byte asked for


def pack(files: dict[str, bytes], *links: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for link in links:
            tar.addfile(link)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    noise = np.random.default_rng(0)
    found = {"LJSpeech-1.1/metadata.csv": b"LJ-1|Dr. One|Doctor One\nLJ-2|Two|Two\n", "LJSpeech-1.1/README": b"hello"}
    for id in ("LJ-1", "LJ-2"):
        wav = io.BytesIO()
        soundfile.write(wav, noise.normal(0, 0.1, 40000), 22050, format="WAV")
        found[f"LJSpeech-1.1/wavs/{id}.wav"] = wav.getvalue()
    return found


@pytest.fixture(scope="module")
def tarball(files: dict[str, bytes]) -> bytes:
    return pack(files)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, *, length: int, span: str = "") -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(length))
    if span:
        handler.send_header("Content-Range", span)
    handler.end_headers()
    handler.wfile.write(body)


def resume(handler: BaseHTTPRequestHandler, file: bytes, start: int, *, most: int | None = None) -> None:
    """What a good server does; `most` bytes of what it promises."""
    body = file[start:]
    if not start:
        send(handler, 200, body[:most], length=len(body))
    elif not body:
        send(handler, 416, b"", length=0, span=f"bytes */{len(file)}")
    else:
        send(handler, 206, body[:most], length=len(body), span=f"bytes {start}-{len(file) - 1}/{len(file)}")


@contextmanager
def serve(file: bytes, *answers: Answer) -> Iterator[tuple[str, list[int]]]:
    """A server that gives the answers in turn, the last one for ever; yields its URL and the offsets asked for."""
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            asked.append(int(match[1]) if match else 0)
            answers[min(len(asked), len(answers)) - 1](self, file, asked[-1])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/LJSpeech-1.1.tar.bz2", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(out: Path, file: bytes, url: str = "", **options: object) -> Path:
    facts = {"sha256": hashlib.sha256(file).hexdigest(), "size": len(file), "unpacked": 10**6, "pause": 0.01}
    return download(out, url=url, **(facts | {"retries": 3} | options))  # type: ignore[arg-type]


def cut(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
    resume(handler, file, start, most=len(file) // 3)


def test_a_corpus_arrives_whole_and_nothing_else_stays(tmp_path: Path, tarball: bytes) -> None:
    with serve(tarball, resume) as (url, asked):
        folder = get(tmp_path / "new" / "data", tarball, url)
        assert get(tmp_path / "new" / "data", tarball, url) == folder
    assert asked == [0], "what is there already must not be fetched again"
    assert [path.name for path in folder.parent.iterdir()] == ["LJSpeech-1.1"]
    assert [(clip.id, clip.text) for clip in Corpus.open(folder)] == [("LJ-1", "Doctor One"), ("LJ-2", "Two")]


def test_a_cut_line_is_resumed_where_it_was_cut(tmp_path: Path, tarball: bytes) -> None:
    with serve(tarball, cut) as (url, asked):
        folder = get(tmp_path, tarball, url, retries=0)  # every attempt brings something: none of them counts
    third = len(tarball) // 3
    assert asked[:3] == [0, third, 2 * third]
    assert len(Corpus.open(folder)) == 2


def test_a_second_call_resumes_the_first(tmp_path: Path, tarball: bytes) -> None:
    def refuse(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
        send(handler, 503, b"", length=0)

    with serve(tarball, cut, refuse) as (url, asked), pytest.raises(WavegenError, match="503.*again to resume"):
        get(tmp_path, tarball, url)
    assert len(asked) == 5, "one that brought something, and four in a row that brought nothing"
    with serve(tarball, resume) as (url, asked):
        get(tmp_path, tarball, url)
    assert asked == [len(tarball) // 3]


def test_a_server_that_ignores_ranges_starts_over(tmp_path: Path, tarball: bytes) -> None:
    def whole(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
        resume(handler, file, 0)

    with serve(tarball, cut, whole) as (url, asked):
        assert len(Corpus.open(get(tmp_path, tarball, url))) == 2
    assert asked == [0, len(tarball) // 3]


@pytest.mark.parametrize("span", ["bytes 0-9/10", "bytes 5-/100", "nonsense", "", "bytes {start}-99/100"])
def test_a_wrong_content_range_is_not_appended(tmp_path: Path, tarball: bytes, span: str) -> None:
    def wrong(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
        send(handler, 206, file[:10], length=10, span=span.format(start=start))

    with serve(tarball, cut, wrong, resume) as (url, asked):
        assert len(Corpus.open(get(tmp_path, tarball, url))) == 2
    assert asked == [0, len(tarball) // 3, 0]


def test_a_server_that_never_resumes_is_given_up(tmp_path: Path, tarball: bytes) -> None:
    def wrong(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
        send(handler, 206, b"", length=0, span="bytes 0-0/1") if start else cut(handler, file, 0)

    with serve(tarball, wrong) as (url, asked), pytest.raises(WavegenError, match="Content-Range|cut"):
        get(tmp_path, tarball, url)
    assert len(asked) < 10


@pytest.mark.parametrize("place", [0, -1])
def test_a_wrong_byte_is_refused_and_the_file_removed(tmp_path: Path, tarball: bytes, place: int) -> None:
    wrong = bytearray(tarball)
    wrong[place] ^= 1
    with serve(bytes(wrong), resume) as (url, _), pytest.raises(WavegenError, match="SHA-256.*expected.*removed"):
        get(tmp_path, tarball, url)
    assert list(tmp_path.iterdir()) == []
    with serve(tarball, resume) as (url, _):
        assert len(Corpus.open(get(tmp_path, tarball, url))) == 2


def test_an_endless_file_is_stopped(tmp_path: Path, tarball: bytes) -> None:
    def endless(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 20))
        except OSError:
            pass  # the client has hung up, as it should

    with serve(tarball, endless) as (url, _), pytest.raises(WavegenError, match="more than"):
        get(tmp_path, tarball, url)
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_another_file_is_replaced(tmp_path: Path, tarball: bytes) -> None:
    (tmp_path / "LJSpeech-1.1.tar.bz2.part").write_bytes(tarball + b"more")
    with serve(tarball, resume) as (url, _):
        assert len(Corpus.open(get(tmp_path, tarball, url))) == 2


def test_a_dead_link_is_not_tried_again(tmp_path: Path, tarball: bytes) -> None:
    def gone(handler: BaseHTTPRequestHandler, file: bytes, start: int) -> None:
        send(handler, 404, b"", length=0)

    with serve(tarball, gone) as (url, asked), pytest.raises(WavegenError, match="404.*mirror"):
        get(tmp_path, tarball, url)
    assert asked == [0]


def test_no_connection_and_no_web_address(tmp_path: Path, tarball: bytes) -> None:
    with serve(tarball, resume) as (url, _):
        pass  # its port is closed now
    with pytest.raises(WavegenError, match="refused.*check the connection"):
        get(tmp_path, tarball, url)
    with pytest.raises(WavegenError, match="expected https"):
        get(tmp_path, tarball, f"file://{tmp_path}")


def test_a_local_archive_is_verified_and_kept(tmp_path: Path, tarball: bytes) -> None:
    archive = tmp_path / "mine.tar.bz2"
    archive.write_bytes(tarball)
    assert len(Corpus.open(get(tmp_path / "out", tarball, archive=archive))) == 2
    assert archive.read_bytes() == tarball
    with pytest.raises(WavegenError, match="SHA-256"):
        get(tmp_path / "other", b"another", archive=archive)
    assert archive.exists()
    with pytest.raises(WavegenError, match="no archive at"):
        get(tmp_path / "other", tarball, archive=tmp_path / "missing")


def hostile(files: dict[str, bytes]) -> dict[str, bytes]:
    link = tarfile.TarInfo("LJSpeech-1.1/wavs/link.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("LJSpeech-1.1/wavs/zero.wav")
    device.type = tarfile.CHRTYPE
    whole = pack(files)
    return {
        "escape": pack(files | {"../escaped": b"x"}),
        "absolute": pack(files | {"/../../escaped": b"x"}),
        "link": pack(files, link),
        "device": pack(files, device),
        "bomb": pack(files | {"LJSpeech-1.1/wavs/zero": bytes(2 * 10**6)}),
        "other": pack({"another/metadata.csv": b"a|b|c"}),
        "cut": whole[: len(whole) // 2],
        "noise": bytes(1000),
        "empty": b"",
    }


KINDS = ["escape", "absolute", "link", "device", "bomb", "other", "cut", "noise", "empty"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_archive_leaves_nothing(tmp_path: Path, files: dict[str, bytes], kind: str) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(hostile(files)[kind])
    out = tmp_path / "deep" / "out"
    with pytest.raises(WavegenError):
        get(out, archive.read_bytes(), archive=archive)
    assert list(out.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "deep"}


def test_what_a_killed_run_left_is_no_corpus(tmp_path: Path, tarball: bytes) -> None:
    (tmp_path / ".LJSpeech-1.1.part" / "LJSpeech-1.1" / "wavs").mkdir(parents=True)
    (tmp_path / ".LJSpeech-1.1.part" / "LJSpeech-1.1" / "stale").touch()
    with serve(tarball, resume) as (url, _):
        folder = get(tmp_path, tarball, url)
    assert not (folder / "stale").exists() and not (tmp_path / ".LJSpeech-1.1.part").exists()


def test_folders_that_cannot_be_used(tmp_path: Path, tarball: bytes) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WavegenError, match="writable folder"):
        get(tmp_path / "file" / "out", tarball)
    with pytest.raises(WavegenError, match="free"):
        get(tmp_path / "small", tarball, unpacked=10**18)
    (tmp_path / "LJSpeech-1.1").mkdir()
    with pytest.raises(WavegenError, match="move it away"):
        get(tmp_path, tarball)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_at_once(tmp_path: Path, tarball: bytes) -> None:
    (tmp_path / "part").symlink_to("/dev/full")
    with serve(tarball, resume) as (url, asked), pytest.raises(WavegenError, match="No space left.*free space"):
        fetch(url, tmp_path / "part", size=len(tarball), pause=0.01)
    assert asked == [0]


def test_the_table_of_corpora_is_whole() -> None:
    assert FACTS["url"].startswith("https://") and len(FACTS["sha256"]) == 64
    assert 0 < FACTS["size"] < FACTS["unpacked"] and FACTS["licence"]
