"""Laws of every model: the configuration is the constructor, and a file gives the model back or says why not."""

import json
import os
import resource
import shutil
import struct
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError
from wavegen.model import Model, read_header
from wavegen.vocoders.waveglow import WaveGlow


def one_sentence(error: pytest.ExceptionInfo, *parts: object) -> None:
    """What was got, what was expected and what to do, in one line."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    for part in parts:
        assert str(part) in text


@pytest.fixture
def saved(model_class, lively, tmp_path):
    path = tmp_path / "model.safetensors"
    lively(model_class).save(path, notes={"steps": 3})
    return path


def header_of(path):
    return json.loads(read_text(path)["__metadata__"]["wavegen"])


def read_text(path):
    """The JSON at the head of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def rewrite(path, **changes):
    """The same weights under a header with other fields."""
    text, content = read_text(path), path.read_bytes()
    text["__metadata__"]["wavegen"] = json.dumps({**header_of(path), **changes})
    head = json.dumps(text).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content[8 + struct.unpack("<Q", content[:8])[0] :])


def test_there_is_a_tiny_preset(model_class):
    assert "tiny" in model_class.presets
    assert sum(weight.numel() for weight in model_class.preset("tiny").parameters()) < 100_000


def test_the_configuration_is_the_constructor(model_class, preset):
    model = model_class.preset(preset)
    there_and_back = json.loads(json.dumps(model.config))
    for config in (model.config, there_and_back):
        again = model_class.from_config(config)
        assert again.config == model.config
        assert {name: p.shape for name, p in again.state_dict().items()} == {
            name: p.shape for name, p in model.state_dict().items()
        }


def test_an_unknown_preset_is_refused_with_the_known_ones(model_class):
    with pytest.raises(WavegenError) as error:
        model_class.preset("huge")
    one_sentence(error, "huge", *model_class.presets)


def test_a_file_gives_the_model_back(model_class, saved, lively):
    model = lively(model_class)
    for loaded in (model_class.load(saved), Model.load(saved)):
        assert type(loaded) is model_class and not loaded.training
        assert loaded.config == model.config
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert read_header(saved)["notes"] == {"steps": 3}


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, part):
    saved.write_bytes(saved.read_bytes()[: int(part * saved.stat().st_size)])
    with pytest.raises(WavegenError) as error:
        Model.load(saved)
    one_sentence(error, saved, "not a complete wavegen model file")


def test_what_is_no_model_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign")
    save_file({"weight": torch.zeros(3)}, tmp_path / "nested", metadata={"wavegen": "[" * 100_000})
    save_file({"weight": torch.zeros(3)}, tmp_path / "bare", metadata={"wavegen": '{"class": 1, "config": {}}'})
    (tmp_path / "text").write_text("no weights")
    for name in ("foreign", "nested", "bare", "text", "absent", "."):
        with pytest.raises(WavegenError) as error:
            Model.load(tmp_path / name)
        one_sentence(error, tmp_path / name)


@pytest.mark.parametrize("name", ["os:system", "wavegen.model:Model", "wavegen.model:json", "wavegen.nowhere:Model",
                                  "wavegen.model", "", "wavegen.model:Model.load", "wavegen...:Model"])  # fmt: skip
def test_a_class_that_is_no_model_of_the_package_is_refused(saved, name):
    rewrite(saved, **{"class": name})
    with pytest.raises(WavegenError) as error:
        Model.load(saved)
    one_sentence(error, saved)


def test_a_file_of_another_class_is_refused(model_class, saved):
    class Other(Model):
        pass

    with pytest.raises(WavegenError) as error:
        Other.load(saved)
    one_sentence(error, saved, model_class.__name__, "Other")


@pytest.mark.parametrize("value", [None, -1, 0, 1, 7, "x", [], {}, {"x": 1}, [1, "y"], 1e300, True])
def test_hostile_fields_end_in_a_model_or_in_one_sentence(saved, value, unchecked):
    config = header_of(saved)["config"]
    for name in config:
        rewrite(saved, config={**config, name: value})
        try:
            Model.load(saved)
        except WavegenError as error:
            assert "\n" not in str(error) and str(saved) in str(error)


def test_an_unknown_field_is_refused(saved):
    rewrite(saved, config={**header_of(saved)["config"], "unheard_of": 3})
    with pytest.raises(WavegenError) as error:
        Model.load(saved)
    one_sentence(error, saved, "unheard_of")


def test_a_file_whose_weights_are_others_is_refused(model_class, saved, lively):
    metadata = {"wavegen": json.dumps(header_of(saved))}
    weights = lively(model_class).state_dict()
    name = next(iter(weights))
    for wrong in (
        {**weights, name: torch.zeros(3, 5)},
        {key: value for key, value in weights.items() if key != name},
        {**weights, "spare": torch.zeros(3)},
    ):
        save_file(wrong, saved, metadata=metadata)
        with pytest.raises(WavegenError) as error:
            Model.load(saved)
        one_sentence(error, saved, model_class.__name__)


@pytest.fixture(params=["quota", "full disk"])
def no_room(request, tmp_path):
    """A folder in which a small file can be written and one of 8 KiB cannot."""
    if request.param == "quota":  # the kernel's own limit for this process
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(no_room, lively, model_class):
    path = no_room / "model.safetensors"
    path.write_text("old")
    with pytest.raises(WavegenError) as error:
        lively(model_class).save(path)
    one_sentence(error, path, "free space")
    assert [(file.name, file.read_text()) for file in no_room.iterdir()] == [("model.safetensors", "old")]


def test_what_cannot_be_written_leaves_nothing(model_class, lively, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    model = lively(model_class)
    for path in (tmp_path / "file" / "model.safetensors", tmp_path / "folder", "/proc/model.safetensors"):
        with pytest.raises(WavegenError) as error:
            model.save(path)
        one_sentence(error, path)
    with pytest.raises(TypeError):
        model.save(tmp_path / "model.safetensors", notes={"not": {"JSON"}})
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


def test_writing_aside_replaces_a_file_only_in_the_end(tmp_path):
    path = tmp_path / "new" / "note.txt"
    for text in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with write_aside(path) as aside:
            aside.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
            assert aside.suffix == ".txt" and aside.parent == path.parent
        assert path.read_text() == text
    with pytest.raises(KeyboardInterrupt), write_aside(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert [file.read_text() for file in path.parent.iterdir()] == ["second"]
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_small_file_that_asks_for_a_large_model_is_refused_at_once(tmp_path):
    config = WaveGlow.preset("tiny").config | {"channels": 3000}
    name = f"{WaveGlow.__module__}:{WaveGlow.__qualname__}"
    header = {"wavegen": json.dumps({"class": name, "config": config, "notes": {}})}
    save_file({"flow": torch.zeros(1)}, tmp_path / "small.safetensors", metadata=header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WavegenError, match="far more than its weights"):
        Model.load(tmp_path / "small.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # a gigabyte; it would be five
