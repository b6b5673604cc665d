"""Laws of every recipe: two steps of it leave models that load and work and all it promises; its text says how to."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch

from wavegen import (
    IAF,
    MADE,
    MAF,
    NICE,
    VAE,
    Corpus,
    Glow,
    Latent,
    Model,
    RealNVP,
    WavegenError,
    WaveGlow,
    load_voice,
    read,
    write,
)

RECIPES = sorted(Path(__file__).parents[1].joinpath("recipes").rglob("*.py"))
NAMES = {recipe: f"{recipe.parent.name}-{recipe.stem}" for recipe in RECIPES}
PLANES = [f"plane{what}.png" for what in ("", "-by-digit", "-by-speaker")]
LEFT = {  # by recipes of latents: models, and tables, pictures and sounds
    "digits-vae": (4, "vae.md", "conditional.png", *PLANES, "digits-as-ann.wav", "digits-as-bob.wav", "walk.wav"),
    "digits-bounds": (9, "bounds.md"),
    "kathleen-collapse": (12, "collapse.md", "rates.md", "rates.png"),
    "kathleen-style_vae": (1, "meaning.md", *(f"number-{d}.{kind}" for d in range(8) for kind in ("png", "wav"))),
    "librispeech-speaker_vae": (1, "readers.md", "readers.png", "between.png", "between.wav"),
}
OF_LATENTS = [recipe for recipe in RECIPES if NAMES[recipe] in LEFT]
OF_FLOWS = [recipe for recipe in RECIPES if recipe.stem == "flows"]  # with data of their own
MANY_VOICES = RECIPES[0].parents[1] / "librispeech" / "waveglow.py"
OF_VOCODERS = [recipe for recipe in RECIPES if recipe not in [*OF_LATENTS, *OF_FLOWS, MANY_VOICES]]
KNOBS = 10


def voiced(seconds: float, rate: int, pitch: float, *, colour: float = 1.0) -> np.ndarray:
    """A gliding tone with overtones, the duller the greater its colour, and some noise."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * pitch * (t + 0.1 * np.sin(t))
    tone = sum(np.sin(k * phase) / k**colour for k in range(1, 12)) * np.sin(np.pi * t / seconds)
    return 0.1 * tone + 0.003 * np.random.default_rng(0).standard_normal(len(t))


def kathleen(folder: Path) -> None:
    """Sixteen clips in the LJSpeech layout, with the lists of its three parts."""
    (folder / "wavs").mkdir()
    ids = [f"tone-{number:02}" for number in range(16)]
    for number, id in enumerate(ids):
        soundfile.write(folder / "wavs" / f"{id}.wav", voiced(0.5 + number / 20, 22050, 100 + 10 * number), 22050)
    lists = {"metadata.csv": ids, "train.csv": ids[:10], "val.csv": ids[10:13], "test.csv": ids[13:]}
    for name, part in lists.items():
        (folder / name).write_text("".join(f"{id}|a tone|a tone\n" for id in part))


def digits(folder: Path) -> None:
    """Four digits by two speakers, twice for testing and three times for training."""
    for digit, (name, pitch), number in product(range(4), (("ann", 200), ("bob", 110)), (0, 4, 5, 6, 7)):
        wav = voiced(0.35 + number / 50, 8000, pitch + 3 * number, colour=0.5 + digit / 2)
        soundfile.write(folder / f"{digit}_{name}_{number}.wav", wav, 8000)


def librispeech(folder: Path) -> None:
    """Three readers of one clip each, and two of four."""
    for reader, (pitch, clips) in enumerate(((90, 1), (130, 1), (170, 1), (110, 4), (220, 4))):
        for number in range(clips):
            wav = voiced(0.8 + number / 20, 16000, pitch + number, colour=0.5 + reader / 4)
            soundfile.write(folder / f"10{reader}-12-{number:04}.flac", wav, 16000)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    """A small corpus in the layout of each one that recipes read."""
    folders = {}
    for make in (kathleen, digits, librispeech):
        folders[make.__name__] = tmp_path_factory.mktemp(make.__name__)
        make(folders[make.__name__])
    return folders | {"ljspeech": folders["kathleen"]}


@pytest.fixture
def corpus(corpora) -> Path:
    return corpora[OF_VOCODERS[0].parent.name]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, str]:
    """Files of a vocoder and of a latent, by the option that wants one."""
    models, folder = (
        {"vocoder": WaveGlow.preset("tiny"), "latent": VAE.preset("tiny")},
        tmp_path_factory.mktemp("saved"),
    )
    for name, model in models.items():
        model.save(folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in models}


@pytest.fixture(params=RECIPES, ids=NAMES.get)
def recipe(request) -> Path:
    return request.param


def two_steps(recipe: Path, **options) -> None:
    """Run a recipe briefly, with those of the options that it has."""
    main = runpy.run_path(str(recipe))["main"]
    known = inspect.signature(main).parameters
    main(steps=2, preset="tiny", **{name: value for name, value in options.items() if name in known})


@pytest.mark.parametrize("recipe", OF_VOCODERS, ids=NAMES.get)
def test_two_steps_make_a_model_that_makes_sound(recipe, corpora, saved, tmp_path):
    data = corpora[recipe.parent.name]
    two_steps(recipe, data=data, out=tmp_path / "run")

    voice = load_voice(tmp_path / "run" / "best.safetensors")
    wav, rate = read(Corpus.open(data)[-1].path, rate=voice.mel.rate)
    mel = voice.mel(wav[None])
    copy = voice.synthesize(mel, seed=0)[0]
    write(tmp_path / "copy.wav", copy, rate)

    found, found_rate = read(tmp_path / "copy.wav")
    assert (len(found), found_rate) == (mel.shape[-1] * voice.mel.hop, rate)
    assert found.isfinite().all() and found.std() > 0


def test_many_voices_start_from_one(corpora, saved, tmp_path):
    options = {"latent": saved["latent"], "init": saved["vocoder"]}
    two_steps(MANY_VOICES, data=corpora["librispeech"], out=tmp_path, **options)
    begun = load_voice(saved["vocoder"])
    for name, style in (("styled", VAE.preset("tiny").latent), ("plain", 0)):
        ended = load_voice(tmp_path / name / "last.safetensors")
        there = ended.state_dict()
        assert ended.style == style
        for part, weight in begun.state_dict().items():  # in two steps they come not far
            torch.testing.assert_close(there[part], weight, rtol=0.1, atol=0.02)
    assert re.search(r"-?\d+\.\d+", (tmp_path / "unseen.md").read_text())


def test_another_mel_cannot_start_from_a_voice(corpora, saved, tmp_path):
    options = {"latent": saved["latent"], "init": saved["vocoder"], "bins": 20}
    with pytest.raises(WavegenError, match="--init ''"):
        two_steps(MANY_VOICES, data=corpora["librispeech"], out=tmp_path, **options)


@pytest.mark.parametrize("recipe", OF_LATENTS, ids=NAMES.get)
def test_two_steps_leave_latents_and_what_is_to_be_seen_and_heard(recipe, corpora, saved, tmp_path):
    data = corpora[recipe.parent.name]
    two_steps(recipe, data=data, out=tmp_path, draws=2, seeds=1, vocoder=saved["vocoder"])

    count, *promised = LEFT[NAMES[recipe]]
    assert {path.name for kind in ("md", "png", "wav") for path in tmp_path.glob(f"*.{kind}")} == set(promised)
    for table in tmp_path.glob("*.md"):
        numbers = re.findall(r"-?\d+\.?\d*", table.read_text())
        assert len(numbers) > 1 and "inf" not in table.read_text().split()
    assert all(matplotlib.image.imread(picture).std() > 0 for picture in tmp_path.glob("*.png"))
    for sound in tmp_path.glob("*.wav"):
        wav, rate = read(sound)
        assert rate == 22050 and len(wav) > rate / 4 and wav.isfinite().all() and wav.std() > 0

    models = [Model.load(path) for path in tmp_path.rglob("last.safetensors")]
    assert len(models) == count and all(isinstance(model, Latent) for model in models)
    for model in models:
        mel = model.mel(read(Corpus.open(data)[0].path, rate=model.mel.rate)[0][None])
        label = model.label(model.labels[:1]) if model.labels else None
        z = torch.cat([model.encode(mel, label=label), model.sample(1, label=label, seed=0)])
        assert z.shape == (2, model.latent) and z.isfinite().all()


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
    expected = {"out", "steps", "preset"} | (set() if recipe in OF_FLOWS else {"data"})
    assert expected <= options.keys() and len(options) <= KNOBS
    assert all(option.kind is option.KEYWORD_ONLY for option in options.values())
    assert all(f"        {name}: " in main.__doc__ for name in options)


def test_the_header_says_what_it_needs_and_its_command(recipe):
    header = ast.get_docstring(ast.parse(recipe.read_text()))
    assert all(f"\n{field}:" in header for field in ("What", "Data", "Command", "Papers"))
    first = "--out" if recipe in OF_FLOWS else "--data"
    assert f"python recipes/{recipe.parent.name}/{recipe.name} {first} " in header


def test_the_table_has_every_recipe(recipe):
    table = recipe.parents[1].joinpath("README.md").read_text()
    assert f"]({recipe.parent.name}/{recipe.name})" in table


def test_the_command_line_trains(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--data", corpus, "--out", tmp_path / "run", "--preset", "tiny", "--steps", "1"]
    subprocess.run([sys.executable, OF_VOCODERS[0], *options], check=True, capture_output=True)
    assert load_voice(tmp_path / "run" / "last.safetensors").mel.rate == 22050


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--setps", "2"], "--setps"), (["--preset", "huge"], "huge")],
    ids=["no such option", "no such preset"],
)
def test_a_wrong_option_ends_with_an_error_and_no_files(options, complaint, corpus, tmp_path):
    command = [sys.executable, OF_VOCODERS[0], "--data", corpus, "--out", tmp_path / "run", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
