import json
import math
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
import toy_run
from safetensors.torch import load_file
from toy_run import batch_at, run, toy

from wavegen.errors import WavegenError
from wavegen.model import read_header
from wavegen.training import fit, lr_at, newest_checkpoint, read_checkpoint


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(out)
    assert found
    return found[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], *, atol: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses_of(out: Path) -> list[tuple]:
    return [(line["step"], line.get("train/loss"), line.get("valid/loss")) for line in lines_of(out)]


def processes() -> multiprocessing.context.ForkServerContext:
    """Real processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "torch.utils.tensorboard", "wavegen.training"])
    return context


@pytest.mark.parametrize("k", [1, 10, 17])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, k):
    settings = {"decay": "cosine", "warmup": 5, "every": 4, "log_every": 3}
    run(tmp_path / "whole", 23, **settings)

    class Stopped(Exception):
        pass

    def interrupted(step):
        if step == k:
            raise Stopped
        return batch_at(step)

    with pytest.raises(Stopped):
        run(tmp_path / "parts", 23, **settings, batch_at=interrupted)
    torch.manual_seed(random.randrange(1000))  # the state of the world outside does not matter
    run(tmp_path / "parts", 23, **settings)
    assert_same(tensors_of(tmp_path / "parts"), tensors_of(tmp_path / "whole"))
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    for name in ("last", "best"):
        assert_same(*(load_file(tmp_path / part / f"{name}.safetensors") for part in ("parts", "whole")))


def test_two_processes_do_what_one_does(tmp_path):
    run(tmp_path / "one", 20, model=toy())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, toy_run.__file__, tmp_path / "two"], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_same(tensors_of(tmp_path / "two"), tensors_of(tmp_path / "one"), atol=1e-5)
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert [line[0] for line in one] == [line[0] for line in two]
    assert two[-1][1] == pytest.approx(one[-1][1], abs=1e-5)


def test_a_lost_process_is_reported_by_the_others(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    both = [processes().Process(target=toy_run.bereft, args=(str(tmp_path), rank, port)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(200)
    assert "rank 0 of 2" in (message := (tmp_path / "error.txt").read_text())
    assert "rank 0: step 3, rank 1: step 3" in message and "to resume" in message


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path):
    for parts in (1, 2):
        run(tmp_path / str(parts), 20, model=toy(), accumulate=parts)
    assert_same(tensors_of(tmp_path / "1"), tensors_of(tmp_path / "2"), atol=1e-6)


def test_a_kill_at_any_moment_leaves_a_run_that_resumes(tmp_path):
    out, reached = tmp_path / "killed", 0
    for _ in range(4):
        process = processes().Process(target=toy_run.forever, args=(str(out),), daemon=True)
        process.start()
        while not any(int(path.stem.split("-")[1]) > reached for path in out.glob("checkpoint-*")):
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = newest_checkpoint(out)
        assert found and found[1]["progress"]["step"] > reached
        reached = found[1]["progress"]["step"]
    with pytest.warns(UserWarning, match="steps was 1000000"):
        run(out, reached + 5, model=toy_run.wide())
    run(tmp_path / "whole", reached + 5, model=toy_run.wide())
    assert_same(tensors_of(out), tensors_of(tmp_path / "whole"))
    assert not list(out.glob(".*"))  # what the kills left half-written is gone


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(tmp_path, number, error):
    handler = signal.getsignal(number)

    def signalled(step):
        if step == 3:
            os.kill(os.getpid(), number)
        return batch_at(step)

    with pytest.raises(error):
        run(tmp_path, 20, batch_at=signalled)
    assert read_checkpoint(tmp_path / "checkpoint-000000004.safetensors")[1]["progress"]["step"] == 4
    assert signal.getsignal(number) is handler


def test_the_hours_end_a_run_that_can_go_on(tmp_path):
    run(tmp_path, 20, hours=1e-9)
    assert tensors_of(tmp_path)["adam/net.0.weight/step"] == 1
    run(tmp_path, 20, hours=1.0)
    assert tensors_of(tmp_path)["adam/net.0.weight/step"] == 20


def poisoned(*steps):
    return lambda step: {"wav": batch_at(step)["wav"] / (0.0 if step in steps else 1.0)}


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    run(tmp_path / "short", 5)
    run(tmp_path / "skipped", 7, batch_at=poisoned(5, 6))
    assert_same(tensors_of(tmp_path / "short"), tensors_of(tmp_path / "skipped"))
    kept = load_file(tmp_path / "skipped" / "bad" / "step-6.safetensors")
    assert_same(kept, poisoned(6)(6))
    assert "loss" in lines_of(tmp_path / "skipped")[-2]["skipped"]


class Steep(toy_run.Toy):
    """Finite loss, infinite gradient."""

    def loss(self, batch):
        return {"loss": super().loss(batch)["loss"] + self.spare.abs().sqrt().sum()}


def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_run(tmp_path):
    with pytest.raises(WavegenError, match=r"3 steps in a row .*gradient norm.*lower `lr`"):
        run(tmp_path, 10, model=Steep())
    assert len(list((tmp_path / "bad").iterdir())) == 3


def test_two_bad_steps_are_borne_and_three_in_a_row_are_not(tmp_path):
    run(tmp_path / "borne", 8, batch_at=poisoned(1, 2, 4, 5))
    with pytest.raises(WavegenError, match=r"3 steps in a row .*loss is"):
        run(tmp_path / "stopped", 8, batch_at=poisoned(1, 2, 3))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_falls_in_every_precision(tmp_path, precision):
    run(tmp_path, 60, model=toy(width=32), batch_at=lambda step: batch_at(0), precision=precision, log_every=1)
    trained = [loss for _, loss, _ in losses_of(tmp_path) if loss]
    assert trained[-1] < 0.5 * trained[0]


def test_fp16_looks_for_its_scale_without_complaint(tmp_path):
    # a loss of thousands times the first scale of 65536 overflows fp16 until the scale has fallen
    run(tmp_path, 30, batch_at=lambda step: {"wav": 100 * batch_at(step)["wav"]}, precision="fp16", log_every=1)
    assert not (tmp_path / "bad").exists()
    assert tensors_of(tmp_path)["adam/net.0.weight/step"] < 30
    assert newest_checkpoint(tmp_path)[1]["scaler"]["scale"] < 65536


def test_without_an_average_the_weights_are_shipped_and_with_one_the_average(tmp_path):
    for ema in (0.0, 0.9):
        model = run(tmp_path / str(ema), 20, ema=ema)
        tensors, shipped = tensors_of(tmp_path / str(ema)), load_file(tmp_path / str(ema) / "last.safetensors")
        source = "average" if ema else "model"
        assert_same(shipped, {name: tensors[f"{source}/{name}"] for name in shipped})
        assert_same(dict(model.state_dict()), shipped)
    assert not torch.equal(tensors["model/net.0.weight"], tensors["average/net.0.weight"])


def test_the_average_is_the_weighted_sum_of_the_weights(tmp_path):
    weights = []
    for steps in range(1, 5):
        run(tmp_path / str(steps), steps, ema=0.2)
        weights.append(tensors_of(tmp_path / str(steps))["model/net.0.weight"])
    expected = toy(noise=0.3).net[0].weight.detach()
    for step, weight in enumerate(weights):
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(tensors_of(tmp_path / "4")["average/net.0.weight"], expected)


def test_the_best_model_is_kept_with_its_score(tmp_path):
    # learning backwards after step 10 makes the first score the best
    run(
        tmp_path,
        30,
        batch_at=lambda step: batch_at(step) if step < 10 else {"wav": -50 * batch_at(step)["wav"]},
        lr=0.1,
    )
    scores = {line["step"]: line["valid/loss"] for line in lines_of(tmp_path) if "valid/loss" in line}
    notes = read_header(tmp_path / "best.safetensors")["notes"]
    assert notes["valid"]["loss"] == min(scores.values()) and notes["steps"] == min(scores, key=scores.get) < 30
    last = read_header(tmp_path / "last.safetensors")["notes"]
    assert last["steps"] == 30 and last["samples"] == 30 * 48 and last["hours"] > 0


def test_the_learning_rate_follows_its_schedule(tmp_path):
    plain = {"lr": 2.0, "steps": 110}
    assert [lr_at(step, **plain, warmup=10) for step in (0, 4, 9, 10, 109)] == [0.2, 1.0, 2.0, 2.0, 2.0]
    assert lr_at(60, **plain, warmup=10, decay="cosine") == pytest.approx(1.0)
    assert lr_at(110, **plain, warmup=10, decay="cosine", final=0.1) == pytest.approx(0.2)
    assert lr_at(60, **plain, warmup=10, decay="linear") == pytest.approx(1.0)
    assert [lr_at(step, **plain, decay=50) for step in (0, 49, 50, 100)] == [2.0, 2.0, 1.0, 0.5]
    run(tmp_path, 10, warmup=5, decay="linear", log_every=1)
    logged = [line["train/lr"] for line in lines_of(tmp_path) if "train/lr" in line]
    assert logged == [lr_at(step, lr=1e-2, steps=10, warmup=5, decay="linear") for step in range(10)]


def test_training_clips_the_gradient(tmp_path):
    huge = {"batch_at": lambda step: {"wav": 1e3 * batch_at(step)["wav"]}, "ema": 0.0}
    run(tmp_path, 1, **huge, clip=0.1, log_every=1)
    first_moment = [value for name, value in tensors_of(tmp_path).items() if name.endswith("exp_avg")]
    norm = math.sqrt(sum(float(value.square().sum()) for value in first_moment)) / (1 - 0.9)
    assert norm == pytest.approx(0.1, rel=1e-3)
    assert lines_of(tmp_path)[0]["train/norm"] > 1


def test_the_world_outside_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = toy()
    torch.manual_seed(5)
    run(tmp_path, 2, model=model)
    assert torch.equal(torch.rand(3), expected)


def test_training_in_a_thread(tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path, 3))
    thread.start()
    thread.join()
    assert tensors_of(tmp_path)["adam/net.0.weight/step"] == 3


def test_previews_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, 4, every=2, preview=lambda model: {"silence": (torch.zeros(4000), 8000)})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert (
        [event.step for event in board.Audio("silence")] == [2, 4] == [event.step for event in board.Images("silence")]
    )
    assert [event.step for event in board.Scalars("valid/loss")] == [2, 4]


def test_another_model_or_seed_does_not_resume_a_run(tmp_path):
    run(tmp_path, 2)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(WavegenError, match="width was 8 and is 16"):
        run(tmp_path, 4, model=toy(width=16, noise=0.3))
    with pytest.raises(WavegenError, match="name was .*Toy.* and is .*Steep"):
        run(tmp_path, 4, model=Steep(noise=0.3))
    with pytest.raises(WavegenError, match="seed was 0 and is 1"):
        run(tmp_path, 4, seed=1)
    with pytest.raises(WavegenError, match="holds a run"):
        run(tmp_path, 4, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": math.nan}, "lr=nan"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"decay": "cosin"}, "decay='cosin'"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"every": 0}, "every=0"),
        ({"device": "tpu9"}, "device='tpu9'"),
        ({"accumulate": 5}, r"batch of \[12\] items"),
        ({"batch_at": lambda step: {"wav": torch.zeros(0, 4)}}, r"batch of \[0\] items"),
    ],
)
def test_bad_arguments_are_named(tmp_path, changes, message):
    with pytest.raises(WavegenError, match=message):
        run(tmp_path, 4, **changes)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WavegenError, match="cannot write"):
        fit(toy(), batch_at, out=tmp_path / "file" / "run", steps=2, lr=1e-3, device="cpu")
