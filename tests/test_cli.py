"""What a user can get wrong on the command line: one sentence on stderr, exit code 2, and nothing left behind."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wavegen.cli
from wavegen.audio.files import read
from wavegen.latents.explore import Collection, digest
from wavegen.latents.infomax import InfoMax
from wavegen.latents.vae import VAE
from wavegen.vocoders.waveglow import WaveGlow
from wavegen.vocoders.wavenet import WaveNet

LATENTS = {
    "vae": {},
    "labelled": {"labels": ("0", "1")},
    "told": {"content": 4},
    "mixture": {"prior": "mixture", "components": 3},
    "small": {"latent": 2},
}


def digits(folder: Path) -> None:
    """Two digits by two speakers, at 8 kHz: each speaker a pitch, each digit a balance of overtones."""
    folder.mkdir()
    t = np.arange(3200) / 8000
    for digit in range(2):
        for speaker, pitch in (("ann", 220), ("bob", 110)):
            for take in range(6):
                tone = sum(np.sin(2 * np.pi * k * (pitch + take) * t) / k ** (1 + digit) for k in range(1, 9))
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", 0.1 * np.sin(np.pi * t / t[-1]) * tone, 8000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short recording, a model, and what can be wrong with either."""
    folder = tmp_path_factory.mktemp("cli")
    wav = 0.3 * np.sin(0.05 * np.arange(4000))
    soundfile.write(folder / "ok.wav", wav, 22050)
    soundfile.write(folder / "stereo.wav", np.stack([wav, wav], axis=1), 8000)
    soundfile.write(folder / "short.wav", wav[:10], 22050)
    soundfile.write(folder / "nan.wav", np.full(4000, np.nan), 22050, subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("good morning")
    (folder / "folder.wav").mkdir()
    mel = np.full((80, 4), -5, np.float32)
    np.save(folder / "one.npy", mel[:, :1])
    np.save(folder / "turned.npy", mel.T)
    np.save(folder / "style.npy", np.arange(4, dtype=np.float32))
    np.save(folder / "objects.npy", np.array([None]), allow_pickle=True)
    soundfile.write(folder / "silent.wav", 0 * wav, 22050)
    soundfile.write(folder / "two.wav", np.resize(wav, 600), 22050)  # of two frames
    digits(folder / "digits")
    (folder / "digits.csv").write_text("id,speaker\n0_ann_0,Ann\n")
    (folder / "ragged.csv").write_text("id,speaker\n0_ann_0\n")
    WaveNet.preset("tiny").save(folder / "tiny.safetensors")
    torch.manual_seed(0)
    styled = WaveGlow.preset("tiny", style=4)
    for weight in styled.parameters():
        weight.data += 0.1 * torch.randn_like(weight)  # a fresh one has zeros that no style passes
    styled.save(folder / "styled.safetensors")
    InfoMax.preset("tiny").save(folder / "mute.safetensors")
    for name, changes in LATENTS.items():
        VAE.preset("tiny", **changes).save(folder / f"{name}.safetensors")
    model = VAE.load(folder / "vae.safetensors")
    z = torch.randn(3, 4)
    Collection(["a", "b", "c"], z, {"digit": ["1", "2", "1"]}, "vae", digest(model)).save(folder / "z.safetensors")
    Collection(["a", "b", "c"], z, {"digit": ["1", "2", "1"]}, "other", "abc").save(folder / "other.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes()[:-500])
    return folder


def called(line: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of `wavegen LINE`."""
    monkeypatch.setattr(sys, "argv", ["wavegen", *shlex.split(line)])
    try:
        wavegen.cli.main()
    except SystemExit as end:
        return end.code
    return 0


WALK = "--latent vae.safetensors --vocoder tiny.safetensors -o out"
ENCODE = "latents encode digits -o out.safetensors --latent"
STYLED = "vocode ok.wav -o out.wav --vocoder styled.safetensors"
VOCODE = "vocode ok.wav -o out.wav --vocoder tiny.safetensors"
WRONG = {
    "vocode empty.wav -o out.wav --vocoder tiny.safetensors": "not a sound file",
    "vocode text.wav -o out.wav --vocoder tiny.safetensors": "not a sound file",
    "vocode missing.wav -o out.wav --vocoder tiny.safetensors": "no sound file",
    "vocode folder.wav -o out.wav --vocoder tiny.safetensors": "no sound file",
    "vocode nan.wav -o out.wav --vocoder tiny.safetensors": "NaN",
    "vocode short.wav -o out.wav --vocoder tiny.safetensors": "10 samples",
    "vocode turned.npy -o out.wav --vocoder tiny.safetensors": "transpose",
    "vocode ok.wav -o out.wav --vocoder cut.safetensors": "not a complete",
    "vocode ok.wav -o out.wav --vocoder nobody": "nobody",
    "vocode ok.wav -o out.mp5 --vocoder tiny.safetensors": "'.mp5'",
    "vocode ok.wav -o out --vocoder nobody": "the suffix is ''",  # said before anything is loaded
    "vocode ok.wav -o ok.wav/out.wav --vocoder tiny.safetensors": "cannot write",
    f"{VOCODE} --temperature -1": "temperature of -1",
    f"{VOCODE} --folds 0": "--folds",
    f"{VOCODE} --threads 0": "--threads",
    f"{VOCODE} --seed 99999999999999999999": "--seed",
    f"{VOCODE} --folds two": "two",
    "vocode ok.wav": "--output",
    "vocode ok.wav -o out.wav --vocoder kathleen-waveglow --folds 2": "WaveNet",
    "vocode ok.wav --vocoder tiny.safetensors --threads 2 -o -": "--threads",
    "mel ok.wav -o out.npy": "safetensors",
    "mel ok.wav -o out.safetensors --convention mine": "mine",
    "info cut.safetensors": "not a complete",
    "data check missing": "missing",
    "data check folder.wav --rate 0": "--rate",
    "data download bogus out": "bogus",
    "evaluate --vocoder tiny.safetensors": "--data",
    "evaluate --vocoder tiny.safetensors --data . --clips 0": "--clips",
    f"{VOCODE} --style ok.wav --latent vae.safetensors": "expected none",
    STYLED: "--style",
    f"{STYLED} --style ok.wav --latent small.safetensors": "of 2 numbers",
    f"{STYLED} --style one.npy": "80x1",
    f"{STYLED} --style objects.npy": "objects.npy is not a complete",
    f"{STYLED} --style missing.npy": "missing.npy is not a complete",
    f"{STYLED} --style tiny.safetensors": "not a complete file of latents",
    f"{STYLED} --style silent.wav --latent vae.safetensors": "silent",
    "latents encode missing -o out.safetensors --latent vae.safetensors": "missing",
    "latents encode digits -o out.npy --latent vae.safetensors": "safetensors",
    f"{ENCODE} nobody": "nobody",
    f"{ENCODE} tiny.safetensors": "WaveNet",
    f"{ENCODE} vae.safetensors --factors '(?P<digit>'": "regular expression",
    f"{ENCODE} vae.safetensors --factors '.*'": "named groups",
    f"{ENCODE} vae.safetensors --factors '(?P<digit>[0-8])_ann_.'": "0_bob_0",
    f"{ENCODE} vae.safetensors --factors digits.csv": "no line for '0_ann_1'",
    f"{ENCODE} vae.safetensors --factors ragged.csv": "no table",
    f"{ENCODE} vae.safetensors --factors missing.csv": "no table",
    f"{ENCODE} vae.safetensors --condition digit": "expected none",
    f"{ENCODE} labelled.safetensors": "--condition",
    f"{ENCODE} labelled.safetensors --factors '.*(?P<take>.)' --condition digit": "take",
    f"{ENCODE} labelled.safetensors --factors '.*(?P<take>.)' --condition take": "label '2'",
    f"latents interpolate ok.wav silent.wav {WALK}": "silent.wav: got a silent clip",
    f"latents interpolate two.wav ok.wav {WALK}": "two.wav: got a clip of 2",
    f"latents interpolate short.wav ok.wav {WALK}": "short.wav: got a wav of 10",
    f"latents interpolate ok.wav ok.wav {WALK} --steps 1": "--steps",
    f"latents interpolate ok.wav ok.wav {WALK} --label 7": "label '7'",
    "latents interpolate ok.wav ok.wav --latent labelled.safetensors --vocoder tiny.safetensors -o out": "no labels",
    "latents interpolate ok.wav ok.wav --latent small.safetensors --vocoder styled.safetensors -o out": "2 numbers",
    "latents interpolate ok.wav ok.wav --latent vae.safetensors --vocoder tiny.safetensors -o ok.wav": "directory",
    "latents interpolate ok.wav ok.wav --latent mute.safetensors --vocoder tiny.safetensors -o out": "can decode",
    f"latents traverse ok.wav {WALK} --dimension 4": "0 to 3",
    "latents map missing.safetensors -o out.png": "no latents at",
    "latents map vae.safetensors -o out.png": "not a complete file of latents",
    "latents map z.safetensors -o out.pdf": "png",
    "latents map z.safetensors -o out.png --colour sex": "'sex'",
    "latents grid other.safetensors -o out.png --latent vae.safetensors": "other (abc)",
    "latents grid z.safetensors -o out.png --latent small.safetensors": "one model",
    "latents cluster z.safetensors --clusters 4": "4 clusters",
    "latents cluster z.safetensors --clusters 2 --truth sex": "'sex'",
    "latents cluster z.safetensors --clusters 2 --latent vae.safetensors": "mixture",
    "latents probe z.safetensors other.safetensors --factor digit": "one model",
    "latents probe z.safetensors z.safetensors --factor sex": "'sex'",
    "latents measure vae.safetensors": "not a complete file of latents",
    "bench --presets nope": "nope",
    "bench --presets tiny --repeats 0": "--repeats",
    "bench --presets tiny --seconds 0": "--seconds",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_bad_input_is_answered_with_one_sentence(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert called(line, monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("wavegen: ") and said.err.count("\n") == 1
    assert WRONG[line] in said.err
    assert sorted(folder.rglob("*")) == before


def test_a_mel_of_another_convention_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    mel = tmp_path / "mel.safetensors"
    assert called(f"mel ok.wav -o {mel} --convention tacotron2", monkeypatch) == 0
    assert called(f"vocode {mel} -o {tmp_path}/out.wav --vocoder tiny.safetensors", monkeypatch) == 2
    said = capsys.readouterr().err
    assert "tacotron2" in said and "hifigan" in said
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("source", ["stereo.wav", "one.npy"])
def test_odd_but_good_input_becomes_sound(
    source: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert called(f"vocode {source} -o {tmp_path}/out.wav --vocoder tiny.safetensors", monkeypatch) == 0
    assert soundfile.info(tmp_path / "out.wav").samplerate == 22050


def test_a_dash_writes_16_bit_samples_to_standard_output(folder: Path) -> None:
    command = [sys.executable, "-m", "wavegen", "vocode", "one.npy", "-o", "-", "--vocoder", "tiny.safetensors"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 2 * 256  # one hop of 16-bit samples


def heard(folder: Path) -> list[torch.Tensor]:
    """The sounds of a walk, beside the picture of it."""
    assert (folder / "path.png").read_bytes()[1:4] == b"PNG"
    return [read(file)[0] for file in sorted(folder.glob("*.wav"))]


@pytest.mark.parametrize("latent", ["vae", "labelled", "told"])
@pytest.mark.parametrize("vocoder", ["tiny", "styled"])
def test_walks_are_seen_and_heard(
    latent: str, vocoder: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with_ = f"--latent {latent}.safetensors --vocoder {vocoder}.safetensors" + " --label 1" * (latent == "labelled")
    clips = "digits/0_ann_0.wav digits/1_bob_0.wav"
    assert called(f"latents interpolate {clips} -o {tmp_path}/walk --steps 3 {with_} --spherical", monkeypatch) == 0
    assert called(f"latents traverse ok.wav -o {tmp_path}/knob --steps 2 --dimension 1 {with_}", monkeypatch) == 0
    walk, knob = heard(tmp_path / "walk"), heard(tmp_path / "knob")
    assert [len(wav) for wav in walk] == 3 * [3200 * 22050 // 8000 // 256 * 256]  # as long as the first
    assert [len(wav) for wav in knob] == 2 * [4000 // 256 * 256]
    assert not torch.equal(walk[0], walk[2]) and not torch.equal(*knob)


def test_a_folder_is_encoded_and_explored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    pattern = r"(?P<digit>\d)_(?P<speaker>\w+)_\d+"
    z = tmp_path / "z.safetensors"
    assert called(f"latents encode digits -o {z} --latent mixture.safetensors --factors '{pattern}'", monkeypatch) == 0
    found = Collection.load(z)
    assert found.ids[0] == "0_ann_0" and found.z.shape == (24, 4)
    assert set(zip(found.factors["digit"], found.factors["speaker"], strict=True)) == {
        (digit, speaker) for digit in "01" for speaker in ("ann", "bob")
    }
    model = VAE.load("mixture.safetensors")
    wav, _ = read("digits/0_ann_0.wav", rate=22050)
    assert torch.equal(found.z[:1], model.encode(model.mel(wav[None])))

    assert called(f"latents map {z} -o {tmp_path}/map.png --colour speaker", monkeypatch) == 0
    grid = f"latents grid {z} -o {tmp_path}/grid.png --latent mixture.safetensors --size 3"
    assert called(grid, monkeypatch) == 0
    assert all((tmp_path / name).read_bytes()[1:4] == b"PNG" for name in ("map.png", "grid.png"))
    capsys.readouterr()
    cluster = f"latents cluster {z} --clusters 2 --truth speaker --latent mixture.safetensors"
    assert called(cluster, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "k-means  2 clusters" in said and "prior " in said and said.count("NMI") == 2
    assert called(f"latents probe {z} {z} --factor digit", monkeypatch) == 0
    assert "of 24 clips" in capsys.readouterr().out
    assert called(f"latents measure {z}", monkeypatch) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("MIG", "SAP", "DCI disentanglement"))


def test_a_latent_with_labels_is_told_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "of.csv").write_text(
        "id,digit\n" + "".join(f"{p.stem},{p.stem[0]}\n" for p in Path("digits").iterdir())
    )
    z = tmp_path / "z.safetensors"
    line = f"latents encode digits -o {z} --latent labelled.safetensors --factors {tmp_path}/of.csv --condition digit"
    assert called(line, monkeypatch) == 0
    model = VAE.load("labelled.safetensors")
    wav, _ = read("digits/1_bob_5.wav", rate=22050)
    assert torch.equal(Collection.load(z).z[-1:], model.encode(model.mel(wav[None]), label=torch.tensor([1])))
    grid = f"latents grid {z} -o {tmp_path}/grid.png --latent labelled.safetensors --size 2"
    assert called(grid, monkeypatch) == 2
    assert called(f"{grid} --label 0", monkeypatch) == 0


def test_a_grid_of_a_latent_that_is_told_what_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    z = tmp_path / "z.safetensors"
    assert called(f"latents encode digits -o {z} --latent told.safetensors", monkeypatch) == 0
    grid = f"latents grid {z} -o {tmp_path}/grid.png --latent told.safetensors --size 2"
    assert called(grid, monkeypatch) == 2
    assert "--content" in capsys.readouterr().err
    assert called(f"{grid} --content ok.wav", monkeypatch) == 0
    assert (tmp_path / "grid.png").exists()


def test_a_style_is_a_recording_or_its_latent_or_a_vector(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    voice, model = WaveGlow.load("styled.safetensors"), VAE.load("vae.safetensors")
    wav = read("ok.wav")[0][None]
    mel, z = voice.mel(wav), model.encode(model.mel(wav))
    Collection(["a", "b"], torch.cat([z - 1, z + 1])).save(tmp_path / "mean.safetensors")
    np.save(tmp_path / "z.npy", z[0].numpy())
    expected = voice.synthesize(mel, z, seed=0)[0]
    for style in ("ok.wav --latent vae.safetensors", f"{tmp_path}/mean.safetensors", f"{tmp_path}/z.npy"):
        line = f"vocode ok.wav --vocoder styled.safetensors -o {tmp_path}/out.wav --style {style}"
        assert called(line, monkeypatch) == 0
        torch.testing.assert_close(read(tmp_path / "out.wav")[0], expected, atol=1e-3, rtol=0)
    assert (voice.synthesize(mel, z + 5, seed=0)[0] - expected).abs().max() > 1e-2
