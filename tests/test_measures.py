"""Laws of what is measured of latents: clusters, probes, disentanglement, centroid, pitch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.latents.measures import accuracy, centroid, cluster, dci, mig, monotone, nmi, pitch, probe, sap

labellings = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2)])
)


def clouds(classes=4, each=50, spread=0.1, seed=0):
    """Latents in well-parted clouds, and the class of each."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    return 3 * np.eye(classes, 6)[labels] + spread * random.normal(size=(len(labels), 6)), labels


def factors_and_latents(clips=1500, noise=0.05, seed=0):
    """Three independent factors, and latents of five dimensions: one for each factor, then two of nothing but noise."""
    random = np.random.default_rng(seed)
    factors = {name: random.integers(0, n, clips) for name, n in (("speaker", 6), ("digit", 10), ("style", 5))}
    z = random.normal(size=(clips, 5))
    for d, v in enumerate(factors.values()):
        z[:, d] = (v - v.mean()) / v.std() + noise * z[:, d]
    return z, factors


def test_kmeans_finds_clouds_that_lie_apart_and_repeats_itself():
    z, truth = clouds()
    found = cluster(z, 4, seed=1)
    assert nmi(found, truth) == pytest.approx(1)
    assert accuracy(found, truth) == 1
    np.testing.assert_array_equal(found, cluster(z, 4, seed=1))


def test_random_clusters_know_nothing():
    random = np.random.default_rng(0)
    found, truth = random.integers(0, 10, (2, 5000))
    assert nmi(found, truth) < 0.02
    assert 0.1 <= accuracy(found, truth) < 0.15


@settings(max_examples=50, deadline=None)
@given(labellings, st.permutations(range(5)))
def test_names_of_clusters_do_not_matter(pair, names):
    found, truth = pair
    renamed = [f"cluster {names[label]}" for label in found]
    assert accuracy(renamed, truth) == accuracy(found, truth)
    assert nmi(renamed, truth) == pytest.approx(nmi(found, truth))
    assert accuracy(renamed, found) == 1


@settings(max_examples=50, deadline=None)
@given(labellings)
def test_nmi_and_accuracy_are_symmetric_and_bounded(pair):
    found, truth = pair
    assert nmi(found, truth) == pytest.approx(nmi(truth, found))
    assert accuracy(found, truth) == accuracy(truth, found)
    assert -1e-12 <= nmi(found, truth) <= 1 + 1e-12
    assert accuracy(found, truth) >= max(found.count(value) for value in found) / len(found) / len(set(truth))


def test_nmi_is_mutual_information_over_mean_entropy():
    from sklearn.metrics import mutual_info_score

    found, truth = np.random.default_rng(0).integers(0, 3, (2, 60))
    mean = (mutual_info_score(found, found) + mutual_info_score(truth, truth)) / 2
    assert nmi(found, truth) == pytest.approx(mutual_info_score(found, truth) / mean)


def test_accuracy_counts_clusters_without_a_class_as_wrong():
    assert accuracy([0, 0, 0, 1, 1, 2], ["a", "a", "a", "b", "b", "b"]) == pytest.approx(5 / 6)
    assert accuracy([7, 7, 7, 7], ["a", "a", "b", "c"]) == 0.5


def test_a_linear_probe_reads_what_is_linear_and_only_that():
    (train, truth), (test, _) = clouds(seed=0), clouds(seed=1)
    names = np.array(["ann", "bob", "cat", "dan"])[truth]
    assert probe(train, names, test, names) == 1
    assert probe(1e4 * train + 1e4, names, 1e4 * test + 1e4, names) == 1  # standardised
    assert probe(train, list(names), test, list(names[::-1])) == 0
    points = np.random.default_rng(0).normal(size=(2, 1000, 2))
    outside = np.linalg.norm(points, axis=-1) > 1.18  # half of them, and no line tells which
    assert probe(points[0], outside[0], points[1], outside[1]) < 0.6


def test_one_dimension_for_each_factor_is_disentangled():
    assert mig(*factors_and_latents(5000, noise=0.0)) > 0.98
    z, factors = factors_and_latents()
    assert mig(z, factors) > 0.85  # bins that straddle two classes, and chance in the next dimension, cost the rest
    best = np.mean([1 - 1 / (v.max() + 1) for v in factors.values()])
    assert best - 0.05 < sap(z, factors) <= best
    scores = dci(z, factors)
    assert min(scores) > 0.95
    assert max(scores) <= 1


def test_factors_shared_among_dimensions_are_not():
    random = np.random.default_rng(0)
    factors = {"a": random.integers(0, 2, 1000), "b": random.integers(0, 2, 1000)}
    a, b = (2 * v - 1 for v in factors.values())
    turned = np.stack([a + b, a - b], axis=1) + 0.1 * random.normal(size=(1000, 2))
    assert mig(turned, factors) < 0.05
    assert sap(turned, factors) < 0.05
    scores = dci(turned, factors)
    assert scores.disentanglement < 0.1
    assert scores.informativeness > 0.95  # all is told, but by no dimension alone


def test_two_dimensions_that_tell_the_same_factor_are_pure_but_not_complete():
    z, factors = factors_and_latents()
    twice = np.concatenate([z[:, :3], z[:, :3] + 0.01 * z[:, 2:]], axis=1)
    assert mig(twice, factors) < 0.05
    assert sap(twice, factors) < 0.05
    scores = dci(twice, factors)
    assert scores.disentanglement > 0.95
    assert scores.completeness < 0.8


def test_latents_that_know_nothing_score_nothing():
    _, factors = factors_and_latents()
    z = np.random.default_rng(1).normal(size=(1500, 5))
    assert mig(z, factors) < 0.03
    assert sap(z, factors) < 0.05
    scores = dci(z, factors)
    assert scores.disentanglement < 0.05 and scores.completeness < 0.05
    assert scores.informativeness < 0.25
    dead = dci(np.zeros_like(z), factors)
    assert dead.disentanglement == 0 and dead.completeness == 0


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(5)), st.floats(0.1, 10))
def test_mig_and_sap_see_neither_order_nor_scale_of_dimensions(order, scale):
    z, factors = factors_and_latents(300, noise=0.5)
    named = {name: [f"{name} {v}" for v in values] for name, values in factors.items()}
    changed = -scale * z[:, order]
    assert mig(scale * z[:, order], named) == pytest.approx(mig(z, factors))
    assert mig(changed, named) == pytest.approx(mig(z, factors), abs=0.02)
    assert sap(changed, named) == pytest.approx(sap(z, factors), abs=0.02)


@pytest.mark.parametrize("name", ["hifigan", "vocos", "parallel_wavegan"])
@pytest.mark.parametrize("hertz", [200.0, 1000.0, 4000.0])
def test_centroid_of_a_tone_is_its_frequency(name, hertz):
    spec = MelSpec.named(name)
    time = torch.arange(spec.rate // 2) / spec.rate
    tones = torch.stack([a * torch.sin(2 * math.pi * hertz * time) for a in (0.05, 0.5)])
    bins = spec.filters()[round(hertz / spec.rate * spec.n_fft)] > 0
    bandwidth = (spec.filters()[:, bins] > 0).any(1).sum() * spec.rate / spec.n_fft
    assert (centroid(spec(tones), spec) - hertz).abs().max() < bandwidth


@pytest.mark.parametrize("change", [{}, {"norm": None}, {"power": 2}, {"scale": "htk"}, {"log": "log10", "fmin": 80.0}])
def test_centroid_of_white_noise_is_the_middle_of_the_band_in_every_convention(change):
    spec = replace(MelSpec.named("hifigan"), **change)
    noise = 0.1 * torch.randn(1, spec.rate, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([noise, torch.zeros_like(noise)], dim=1)
    assert centroid(spec(noise), spec).item() == pytest.approx(4000, rel=0.03)
    assert centroid(spec(padded), spec).item() == pytest.approx(4000, rel=0.03)


@pytest.mark.parametrize(("rate", "hertz"), [(8000, 110.0), (22050, 233.0)])
def test_pitch_of_a_harmonic_tone(rate, hertz):
    time = torch.arange(rate // 2) / rate
    tone = sum(torch.sin(2 * math.pi * hertz * n * time) / n for n in range(1, 9))
    assert pitch(0.1 * tone, rate) == pytest.approx(hertz, rel=0.01)
    silence = torch.zeros(rate // 2)
    assert pitch(torch.cat([silence, 0.1 * tone, silence]), rate) == pytest.approx(hertz, rel=0.01)
    assert math.isnan(pitch(silence, rate))


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=20))
def test_sorted_sequences_are_monotone_and_reversing_changes_nothing(values):
    moved = len(set(values)) > 1
    assert monotone(sorted(values)) == monotone(sorted(values, reverse=True)) == moved
    assert monotone(values) == monotone(values[::-1]) == monotone([3.0 * v - 7 for v in values])
    assert monotone(values) == (moved and values in (sorted(values), sorted(values, reverse=True)))


def test_monotone_allows_small_steps_back_and_no_gaps():
    assert not monotone([100, 120, 119, 200])
    assert monotone([100, 120, 119, 200], tolerance=0.02)
    assert monotone([200, 119, 120, 100], tolerance=0.02)
    assert not monotone([100, 120, 110, 200], tolerance=0.02)
    assert not monotone([100, math.nan, 200], tolerance=1.0)


Z, TWO = np.random.default_rng(0).normal(size=(6, 3)), [0, 1, 0, 1, 0, 1]
BAD = {
    "6 different clips for 7 clusters": lambda: cluster(Z, 7),
    "1 different clips for 2 clusters": lambda: cluster(np.zeros((6, 3)), 2),
    "for 0 clusters": lambda: cluster(Z, 0),
    "latents of shape": lambda: cluster(Z[0], 1),
    "latents of shape (0, 3)": lambda: cluster(Z[:0], 1),
    "latents with NaN": lambda: cluster(np.where(Z > 0, Z, np.nan), 1),
    "5 labels for 6 clips": lambda: probe(Z, TWO[1:], Z, TWO),
    "4 labels for 6 clips": lambda: probe(Z, TWO, Z, TWO[2:]),
    "0 labels for 0 clips": lambda: nmi([], []),
    "labels for 3 clips": lambda: accuracy([1, 2, 3], [1, 2]),
    "one class, 1": lambda: probe(Z, [1] * 6, Z, TWO),
    "no training clip has (eve, zoe)": lambda: probe(Z, ["ann", "bob"] * 3, Z, ["zoe", "bob", "eve"] * 2),
    "sizes 3 and 2": lambda: probe(Z, TWO, Z[:, :2], TWO),
    "latents of size 1": lambda: mig(Z[:, :1], {"sex": TWO}),
    "0 factors": lambda: sap(Z, {}),
    "of sex of one class": lambda: mig(Z, {"sex": [1] * 6}),
    "5 values of text for 6 clips": lambda: sap(Z, {"text": [0, 1, 2, 3, 4, 4]}),
    "6 values of level for 6 clips": lambda: dci(Z, {"sex": TWO, "level": Z[:, 0]}),
    "4 values of level for 6 clips": lambda: mig(Z, {"level": [0.1, 0.2, 0.2, 0.3, 0.3, 0.4]}),
    "3 labels of sex": lambda: sap(Z, {"sex": [0, 1, 0]}),
    "one factor, sex": lambda: dci(Z, {"sex": TWO}),
    "1 bins": lambda: mig(Z, {"sex": TWO}, bins=1),
    "(batch, bins, frames)": lambda: centroid(torch.zeros(80, 5), MelSpec()),
    "a mel of shape (1, 79, 5)": lambda: centroid(torch.zeros(1, 79, 5), MelSpec()),
    "a wav of shape (0,)": lambda: pitch(torch.zeros(0), 22050),
    "a wav of shape (1, 9)": lambda: pitch(torch.zeros(1, 9), 22050),
    "all finite": lambda: pitch(torch.full((9,), math.nan), 22050),
    "pitches of 60 to 400": lambda: pitch(torch.zeros(9), 700),
    "1 values": lambda: monotone([1.0]),
    "tolerance of -1": lambda: monotone([1.0, 2.0], tolerance=-1.0),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_refused_in_one_sentence(said, unchecked):
    with pytest.raises(WavegenError) as refused:
        BAD[said]()
    message = str(refused.value)
    assert said in message
    assert "expected" in message and ";" in message and "\n" not in message
