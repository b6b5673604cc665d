import pytest
import torch
from safetensors.torch import save_file
from toy_run import run, toy

from wavegen.errors import WavegenError
from wavegen.training import newest_checkpoint, read_checkpoint


def steps_in(folder):
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("checkpoint-*.safetensors"))


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def test_the_two_newest_are_kept(tmp_path):
    run(tmp_path, 50)
    assert steps_in(tmp_path) == [40, 50]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_passed_by_with_a_warning(tmp_path, part):
    run(tmp_path, 20)
    cut(tmp_path / "checkpoint-000000020.safetensors", part)
    with pytest.warns(UserWarning, match="20.safetensors is not a complete checkpoint"):
        run(tmp_path, 20)
    _, header = read_checkpoint(tmp_path / "checkpoint-000000020.safetensors")
    assert header["progress"]["step"] == 20


def test_damaged_checkpoints_alone_are_an_error(tmp_path):
    run(tmp_path, 10)
    cut(tmp_path / "checkpoint-000000010.safetensors", 0.5)
    with pytest.warns(UserWarning), pytest.raises(WavegenError, match="no checkpoint in .* is complete"):
        run(tmp_path, 20)


def test_a_folder_without_checkpoints_has_no_newest(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint-mine.safetensors")
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "absent") is None


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "checkpoint-000000001.safetensors"
    with pytest.raises(WavegenError, match="not a complete checkpoint"):
        read_checkpoint(path)
    toy().save(path)
    with pytest.raises(WavegenError, match="not a complete checkpoint"):
        read_checkpoint(path)
    for header in ("{", "[]", "{}", '{"class": 1}'):
        save_file({"x": torch.zeros(1)}, path, metadata={"wavegen-checkpoint": header})
        with pytest.raises(WavegenError, match="not a complete checkpoint"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["model/net.0.weight", "average/net.0.weight", "adam/net.0.weight/exp_avg", "adam/x/y"]
)
def test_tensors_of_another_shape_are_refused(tmp_path, name):
    run(tmp_path, 5)
    path = tmp_path / "checkpoint-000000005.safetensors"
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, _ = read_checkpoint(path)
    save_file({**tensors, name: torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(WavegenError, match="does not fit Toy"):
        run(tmp_path, 5)
