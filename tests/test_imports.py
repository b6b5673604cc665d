"""The public names are all there, and nobody waits for torch who does not need it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wavegen

HEAVY = (
    "torch",
    "torchaudio",
    "numba",
    "librosa",
    "scipy",
    "matplotlib",
    "tensorboard",
    "pesq",
    "pystoi",
    "pocketsphinx",
)


@pytest.mark.parametrize(
    "arguments",
    [["-c", "import wavegen"], ["-m", "wavegen", "--help"], ["-m", "wavegen", "vocode", "--help"]],
    ids=["import", "help", "help-of-a-verb"],
)
def test_nothing_heavy_is_imported(arguments):
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "wavegen" in imported
    assert not imported.intersection(HEAVY)


@pytest.mark.parametrize("name", wavegen.__all__)
def test_every_public_name_is_there(name):
    assert getattr(wavegen, name).__doc__
    assert name in dir(wavegen)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(wavegen.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [alias.asname or alias.name for node in block.body for alias in node.names]
    assert sorted(seen) == sorted(wavegen.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="wavenet_of_tomorrow"):
        wavegen.wavenet_of_tomorrow  # noqa: B018
