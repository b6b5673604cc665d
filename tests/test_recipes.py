"""Laws of every recipe: two steps of it save models that load and work, and its text says how to run it."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from wavegen import IAF, MADE, MAF, NICE, Glow, Model, RealNVP, load_voice, read, write

RECIPES = sorted(Path(__file__).parents[1].joinpath("recipes").rglob("*.py"))
NAMES = {recipe: f"{recipe.parent.name}-{recipe.stem}" for recipe in RECIPES}
OF_FLOWS = [recipe for recipe in RECIPES if recipe.stem == "flows"]  # with data of their own
OF_SPEECH = [recipe for recipe in RECIPES if recipe not in OF_FLOWS]
KNOBS = 10


def voiced(seconds: float, rate: int, pitch: float) -> np.ndarray:
    """A gliding tone with overtones and some noise."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * pitch * (t + 0.1 * np.sin(t))
    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * np.sin(np.pi * t / seconds)
    return 0.1 * tone + 0.003 * np.random.default_rng(0).standard_normal(len(t))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Sixteen clips in the LJSpeech layout, with the lists of its three parts."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "wavs").mkdir()
    ids = [f"tone-{number:02}" for number in range(16)]
    for number, id in enumerate(ids):
        soundfile.write(folder / "wavs" / f"{id}.wav", voiced(0.5 + number / 20, 22050, 100 + 10 * number), 22050)
    lists = {"metadata.csv": ids, "train.csv": ids[:10], "val.csv": ids[10:13], "test.csv": ids[13:]}
    for name, part in lists.items():
        (folder / name).write_text("".join(f"{id}|a tone|a tone\n" for id in part))
    return folder


@pytest.fixture(params=RECIPES, ids=NAMES.get)
def recipe(request) -> Path:
    return request.param


@pytest.mark.parametrize("recipe", OF_SPEECH, ids=NAMES.get)
def test_two_steps_make_a_model_that_makes_sound(recipe, corpus, tmp_path):
    main = runpy.run_path(str(recipe))["main"]
    main(steps=2, preset="tiny", data=corpus, out=tmp_path / "run")

    voice = load_voice(tmp_path / "run" / "best.safetensors")
    wav, rate = read(corpus / "wavs" / "tone-15.wav", rate=voice.mel.rate)
    mel = voice.mel(wav[None])
    copy = voice.synthesize(mel, seed=0)[0]
    write(tmp_path / "copy.wav", copy, rate)

    found, found_rate = read(tmp_path / "copy.wav")
    assert (len(found), found_rate) == (mel.shape[-1] * voice.mel.hop, rate)
    assert found.isfinite().all() and found.std() > 0


@pytest.mark.parametrize("recipe", OF_FLOWS, ids=NAMES.get)
def test_two_steps_fit_every_flow_and_say_how_well(recipe, tmp_path, unchecked, capsys):
    main = runpy.run_path(str(recipe))["main"]
    main(steps=2, preset="tiny", out=tmp_path)

    models = [Model.load(path) for path in tmp_path.rglob("last.safetensors")]
    assert {type(model) for model in models} == {NICE, RealNVP, Glow, MADE, MAF, IAF}
    assert all(model.sample(3, seed=0).isfinite().all() for model in models)
    assert "RealNVP" in capsys.readouterr().out
    tables, pictures = list(tmp_path.glob("*.md")), list(tmp_path.glob("*.png"))
    assert tables or pictures
    assert all(matplotlib.image.imread(picture).std() > 0 for picture in pictures)
    for table in tables:
        rows = [re.findall(r"-?[\d.]+", row) for row in table.read_text().splitlines()[2:]]
        assert len(rows) == 8 and all(len(row) == 4 for row in rows)


def test_the_options_are_few_named_and_explained(recipe):
    main = runpy.run_path(str(recipe))["main"]
    options = inspect.signature(main).parameters
    expected = {"out", "steps", "preset"} | ({"data"} if recipe in OF_SPEECH else set())
    assert expected <= options.keys() and len(options) <= KNOBS
    assert all(option.kind is option.KEYWORD_ONLY for option in options.values())
    assert all(f"        {name}: " in main.__doc__ for name in options)


def test_the_header_says_what_it_needs_and_its_command(recipe):
    header = ast.get_docstring(ast.parse(recipe.read_text()))
    assert all(f"\n{field}:" in header for field in ("What", "Data", "Command", "Papers"))
    first = "--data" if recipe in OF_SPEECH else "--out"
    assert f"python recipes/{recipe.parent.name}/{recipe.name} {first} " in header


def test_the_table_has_every_recipe(recipe):
    table = recipe.parents[1].joinpath("README.md").read_text()
    assert f"]({recipe.parent.name}/{recipe.name})" in table


def test_the_command_line_trains(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--data", corpus, "--out", tmp_path / "run", "--preset", "tiny", "--steps", "1"]
    subprocess.run([sys.executable, OF_SPEECH[0], *options], check=True, capture_output=True)
    assert load_voice(tmp_path / "run" / "last.safetensors").mel.rate == 22050


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--setps", "2"], "--setps"), (["--preset", "huge"], "huge")],
    ids=["no such option", "no such preset"],
)
def test_a_wrong_option_ends_with_an_error_and_no_files(options, complaint, corpus, tmp_path):
    command = [sys.executable, OF_SPEECH[0], "--data", corpus, "--out", tmp_path / "run", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
