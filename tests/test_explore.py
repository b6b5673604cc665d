"""Laws of walks through a latent space, of collections of latents, of maps, and of their pictures."""

import json
import math
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from wavegen.errors import WavegenError
from wavegen.latents.explore import Collection, digest, draw_grid, draw_map, draw_path, path, plane, traverse
from wavegen.latents.vae import VAE


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def angle(a, b):
    return 2 * torch.atan2((a / a.norm() - b / b.norm()).norm(), (a / a.norm() + b / b.norm()).norm()).item()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 9), st.booleans())
def test_a_path_ends_where_it_was_told_to_and_comes_back_the_same_way(seed, size, steps, spherical):
    a, b = normal(2, size, seed=seed)
    walk = path(a, b, steps, spherical=spherical)
    assert walk.shape == (steps, size)
    assert torch.equal(walk[0], a) and torch.equal(walk[-1], b)
    if size > 1:  # in one dimension the signs alone say which way a spherical path goes
        torch.testing.assert_close(path(b, a, steps, spherical=spherical), walk.flip(0), atol=1e-5, rtol=1e-4)


def test_a_linear_path_takes_equal_steps():
    steps = path(*normal(2, 8), 6).diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_a_spherical_path_turns_by_equal_angles_and_keeps_the_norm():
    a, b = normal(2, 8)
    walk = path(a, 2 * b / b.norm() * a.norm(), 7, spherical=True)
    torch.testing.assert_close(walk.norm(dim=1) / a.norm(), torch.linspace(1, 2, 7))
    for before, after in pairwise(walk):
        assert angle(before, after) == pytest.approx(angle(a, b) / 6, abs=1e-5)
    level = path(a, b / b.norm() * a.norm(), 7, spherical=True)
    torch.testing.assert_close(level.norm(dim=1), a.norm().expand(7))


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-6, 3.0, 0.0, -1.0])
def test_a_spherical_path_is_finite_between_parallel_latents(factor):
    a = normal(6)
    walk = path(a, factor * a, 5, spherical=True)
    torch.testing.assert_close(walk.norm(dim=1) / a.norm(), torch.linspace(1, abs(factor), 5))
    if factor >= 0:
        torch.testing.assert_close(walk, path(a, factor * a, 5))
    else:  # half way round
        assert angle(walk[2], a) == pytest.approx(math.pi / 2, abs=1e-5)
    assert path(0 * a, 0 * a, 3, spherical=True).abs().max() == 0


def test_a_traverse_changes_one_dimension_only():
    z = normal(5)
    walk = traverse(z, 3, values=[-1.0, 0.0, 2.5])
    assert walk[:, 3].tolist() == [-1.0, 0.0, 2.5]
    others = [0, 1, 2, 4]
    assert torch.equal(walk[:, others], z[others].expand(3, -1))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: path(normal(4), normal(4), 1), "2 steps"),
        (lambda: path(normal(4), normal(5), 3), "4 and 5"),
        (lambda: traverse(normal(4), 4, values=[0.0]), "0 to 3"),
        (lambda: traverse(normal(4), -1, values=[0.0]), "0 to 3"),
        (lambda: plane(normal(9, 1)), "2 or more"),
        (lambda: Collection(["a"], normal(2, 3)), "1 ids"),
        (lambda: Collection([], normal(0, 3)), "0 ids"),
        (lambda: Collection(["a", "b"], normal(2, 3) * math.nan), "finite"),
        (lambda: Collection(["a", "b"], normal(2, 3), {"digit": ["1"]}), "'digit'"),
        (lambda: Collection(["a", "b"], normal(2, 3)).factor("sex"), "--factors"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, reason, unchecked):
    with pytest.raises(WavegenError, match=reason):
        wrong()


@pytest.fixture
def collection() -> Collection:
    return Collection(["a", "b/c", "ü"], normal(3, 4), {"digit": ["1", "2", "1"], "x": ["", "y", "z"]}, "mine", "abc")


def test_a_collection_comes_back_as_it_was_saved(collection, tmp_path):
    collection.save(tmp_path / "z.safetensors")
    found = Collection.load(tmp_path / "z.safetensors")
    assert torch.equal(found.z, collection.z)
    for name in ("ids", "factors", "model", "digest"):
        assert getattr(found, name) == getattr(collection, name)


HEADER = {"ids": ["a", "b"], "factors": {"digit": ["1", "2"]}, "model": "", "digest": ""}
HOSTILE = {
    "no header": None,
    "no json": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "no ids": json.dumps({**HEADER, "ids": None}),
    "ids of numbers": json.dumps({**HEADER, "ids": [1, 2]}),
    "too few ids": json.dumps({**HEADER, "ids": ["a"]}),
    "factors of a list": json.dumps({**HEADER, "factors": ["digit"]}),
    "a short factor": json.dumps({**HEADER, "factors": {"digit": ["1"]}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_in_one_sentence(name, tmp_path):
    metadata = None if HOSTILE[name] is None else {"latents": HOSTILE[name]}
    save_file({"z": normal(2, 4)}, tmp_path / "z.safetensors", metadata=metadata)
    with pytest.raises(WavegenError, match=r"z\.safetensors is not a complete") as error:
        Collection.load(tmp_path / "z.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("z", [normal(2), normal(2, 4) / 0, normal(3, 4), normal(2, 0), torch.zeros(2, 4, 4)])
def test_a_hostile_tensor_is_refused(z, tmp_path, unchecked):
    save_file({"z": z}, tmp_path / "z.safetensors", metadata={"latents": json.dumps(HEADER)})
    with pytest.raises(WavegenError, match="is not a complete"):
        Collection.load(tmp_path / "z.safetensors")


def test_what_is_no_collection_is_refused(collection, tmp_path):
    file = tmp_path / "z.safetensors"
    with pytest.raises(WavegenError, match="no latents at"):
        Collection.load(file)
    collection.save(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(WavegenError, match="is not a complete"):
        Collection.load(file)
    with pytest.raises(WavegenError, match="safetensors"):
        collection.save(tmp_path / "z.npy")
    assert [found.name for found in tmp_path.iterdir()] == ["z.safetensors"]


def test_a_collection_knows_the_model_that_made_it(lively):
    model = lively(VAE)
    made = Collection(["a"], normal(1, model.latent), model="mine", digest=digest(model))
    made.check(model)
    next(model.parameters()).data[0] += 1e-3
    with pytest.raises(WavegenError, match="mine"):
        made.check(model, "yours")


@pytest.mark.parametrize("size", [2, 3, 16])
def test_what_lies_on_the_plane_comes_back_from_it(size):
    z = normal(50, size) * torch.linspace(3, 1, size)
    flat, points = plane(z), normal(20, 2, seed=1)
    torch.testing.assert_close(flat.down(flat.up(points)), points, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flat.axes @ flat.axes.T, torch.eye(2), atol=1e-5, rtol=0)
    if size == 2:
        assert torch.equal(flat.down(z), z)


def test_the_plane_is_that_of_most_variance():
    axes = torch.linalg.qr(normal(10, 10)).Q
    z = normal(500, 10) * torch.tensor([5.0, 3.0, *[0.1] * 8]) @ axes + 7
    flat = plane(z)
    assert (flat.up(flat.down(z)) - z).std() < 0.15
    assert (flat.axes @ axes[:2].T).abs().diagonal().min() > 0.99
    assert torch.equal(plane(z[:1]).down(z[:1]), torch.zeros(1, 2))  # even of one clip


def picture(file):
    return np.asarray(matplotlib.image.imread(file))[..., :3]


@pytest.mark.parametrize("classes", [1, 3, 10, 60])
def test_a_map_has_a_colour_for_each_label(classes, tmp_path):
    labels = [str(n % classes) for n in range(120)]
    draw_map(10 * normal(120, 2), labels, tmp_path / "map.png", factor="digit")
    colours = np.unique((picture(tmp_path / "map.png") * 255).round().reshape(-1, 3), axis=0)
    assert (np.ptp(colours, axis=1) > 30).sum() >= classes


def test_a_grid_shows_its_first_row_at_the_bottom(tmp_path):
    mels = torch.zeros(2, 3, 8, 40)
    mels[0, :, 4:] = 1  # bright: the upper bands of the lower row
    draw_grid(mels, tmp_path / "grid.png", across=["a", "b", "c"], upward=["low", "high"])
    seen = picture(tmp_path / "grid.png")
    yellow = (seen[..., 0] > 0.9) & (seen[..., 1] > 0.8) & (seen[..., 2] < 0.3)
    rows = yellow[:, : seen.shape[1] * 3 // 4].any(axis=1).nonzero()[0] / len(seen)  # left of the scale
    assert 0.45 < rows.min() < rows.max() < 0.75


def test_a_path_has_one_scale(tmp_path):
    mels = torch.stack([torch.full((8, 50), value) for value in (-5.0, 0.0, 5.0)])
    draw_path(mels, tmp_path / "path.png", names=["start", "half", "end"])
    seen = picture(tmp_path / "path.png")
    middle = (seen[len(seen) // 2] * 255).round()
    colours, counts = np.unique(middle, axis=0, return_counts=True)
    assert (counts > 50).sum() >= 3, colours


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda folder: draw_map(normal(4, 2), ["a"], folder / "map.png"), "1 labels"),
        (lambda folder: draw_map(normal(1, 2), ["a"], folder / "map.pdf"), "png"),
        (lambda folder: draw_path(normal(2, 8, 9) * math.nan, folder / "path.png"), "finite"),
        (lambda folder: draw_path(normal(0, 8, 9), folder / "path.png"), "expected"),
        (lambda folder: draw_path(normal(2, 8, 9), folder / "file" / "path.png"), "cannot write"),
    ],
)
def test_a_picture_is_whole_or_not_there(wrong, reason, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WavegenError, match=reason):
        wrong(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
