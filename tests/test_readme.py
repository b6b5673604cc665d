"""Every command and every Python block of the README runs, in order, beside the files that the README speaks of.

An HTML comment before a block says what the test does differently:

    <!-- tested with: recipes --steps 2; evaluate --clips 2 -->    shorter, by these options of the commands so called
    <!-- not run: reason -->
"""

import importlib.metadata
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import wavegen.cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMENT = r"(?:<!-- (?P<how>tested with|not run): (?P<what>.*?) -->\n)?"
FENCE = re.compile(COMMENT + r"```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A fenced block, and what its comment says."""

    language: str
    code: str
    how: str
    what: str


BLOCKS = [Block(m["language"], m["code"], m["how"] or "", m["what"] or "") for m in FENCE.finditer(TEXT)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the README's files and, in place of downloads and recordings, tones."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("wavegen", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data" / "hello.wav", folder / "data")
    corpus = folder / "data" / "LJSpeech-1.1"
    names = [f"LJ001-{number:04}" for number in range(1, 17)]
    for audio in (corpus / "wavs", folder / "recordings", folder / "original", folder / "copied"):
        audio.mkdir(parents=True)
        for number, name in enumerate(names[: 2 if audio.name in ("original", "copied") else None]):
            soundfile.write(audio / f"{name}.wav", tone(100 + 10 * number), 22050)
    (corpus / "metadata.csv").write_text("".join(f"{name}|A tone.|a tone\n" for name in names))
    return folder


def tone(pitch: float, rate: int = 22050) -> np.ndarray:
    """A second of overtones that come and go."""
    t = np.arange(rate) / rate
    return 0.05 * np.sin(np.pi * t) * sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 20))


def local(command: str, changes: str) -> list[str]:
    """The words of a command without uv; skips where an extra that it asks for is not installed."""
    words = shlex.split(command.removeprefix("pip install uv && ").removeprefix("uv run "), comments=True)
    while words[0] == "--extra":
        require(words[1])
        words = words[2:]
    for change in filter(None, changes.split(";")):
        name, *options = change.split()
        if any(word.startswith(name) for word in words):
            for option, value in zip(options[::2], options[1::2], strict=True):
                place = words.index(option) if option in words else len(words)
                words[place : place + 2] = [option, value]
    return words


def require(extra: str) -> None:
    """Skip unless every package of an extra is there."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    for package in (re.split(r"[^\w-]", requirement)[0] for requirement in listed):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"the rest needs {package}, of the extra {extra}")


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process, which has waited for torch already."""
    monkeypatch.setattr(sys, "argv", words if words[0] == "wavegen" else words[1:])
    try:
        wavegen.cli.main() if words[0] == "wavegen" else runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{shlex.join(words)} ended with {end.code}"


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # it means the command line
@pytest.mark.parametrize("block", BLOCKS, ids=[f"{number}-{block.language}" for number, block in enumerate(BLOCKS)])
def test_it_runs(block, place, monkeypatch):
    monkeypatch.chdir(place)
    if block.how == "not run":
        pytest.skip(block.what)
    if block.language == "python":
        for package in re.findall(r"# pip install (\w+)", block.code):
            pytest.importorskip(package)
        exec(compile(block.code, "README.md", "exec"), {})
    for command in block.code.splitlines() if block.language == "sh" else ():
        words = local(command, block.what)
        run(words, monkeypatch)
        for option, output in pairwise(words):
            if option == "-o" and output.endswith((".wav", ".flac")):
                wav, rate = soundfile.read(output)
                assert rate == 22050 and len(wav) > rate / 2 and np.abs(wav).max() > 0.01
            elif option == "-o":
                assert Path(output).exists()


def test_the_first_command_runs_by_itself(place):
    words = local(BLOCKS[0].code, "")
    subprocess.run([sys.executable, "-m", *words[:-1], "first.wav"], cwd=place, check=True, stdin=subprocess.DEVNULL)
    assert soundfile.info(place / "first.wav").duration > 0.5


def test_every_block_is_of_a_language_that_runs():
    assert {block.language for block in BLOCKS} == {"sh", "python"}
    assert TEXT.count("```") == 2 * len(BLOCKS)


def test_the_first_two_commands_set_everything_up():
    first, second = (block.code.strip() for block in BLOCKS[:2])
    assert first.startswith("pip install uv && uv run wavegen ") and second.startswith("pip install uv && uv run ")
    assert (ROOT / ".ci" / "run").read_text().strip().endswith(second.removeprefix("pip install uv && "))


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target
