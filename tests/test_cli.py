"""What a user can get wrong on the command line: one sentence on stderr, exit code 2, and nothing left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import wavegen.cli
from wavegen.vocoders.wavenet import WaveNet


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
    WaveNet.preset("tiny").save(folder / "tiny.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes()[:-500])
    return folder


def called(line: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of `wavegen LINE`."""
    monkeypatch.setattr(sys, "argv", ["wavegen", *line.split()])
    try:
        wavegen.cli.main()
    except SystemExit as end:
        return end.code
    return 0


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
