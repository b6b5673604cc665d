"""What a latent space holds: clusters, probes, disentanglement; and what is heard of it: centroid and pitch.

Latents `z` are (N, D), one row a clip; labels are one per clip, integers or names. scikit-learn does the fitting.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError

__all__ = ["DCI", "accuracy", "centroid", "cluster", "dci", "mig", "monotone", "nmi", "pitch", "probe", "sap"]

Labels: TypeAlias = Sequence[Any] | np.ndarray
Latents: TypeAlias = Float[np.ndarray, "N D"]


def cluster(z: Latents, k: int, *, seed: int = 0) -> Int[np.ndarray, " N"]:
    """The cluster of every clip, in 0 .. k - 1, by k-means: the best of ten starts.

    Raises:
        WavegenError: `z` is not (N, D), or not finite; `k` < 1; fewer different clips than clusters.
    """
    from sklearn.cluster import KMeans

    _check(z)
    different = len(np.unique(z, axis=0))
    if not 1 <= k <= different:
        raise WavegenError(f"got {different} different clips for {k} clusters, expected 1 to {different}; choose fewer")
    settings: dict[str, Any] = {"n_init": 10, "random_state": seed}
    return KMeans(k, **settings).fit_predict(z)


def nmi(found: Labels, truth: Labels) -> float:
    """Normalised mutual information of two labellings, in [0, 1]: 0 independent, 1 the same up to names.

    I(a; b) over the arithmetic mean of H(a) and H(b). It is not corrected for chance, so many clusters of few clips
    score above 0.

    Raises:
        WavegenError: no labels, or not as many of one as of the other.
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(_codes(truth, len(found)), _codes(found, len(truth))))


def accuracy(found: Labels, truth: Labels) -> float:
    """Share of clips that are right once clusters are given the names that suit them best, in [0, 1].

    The assignment is one to one and optimal (Hungarian method: Kuhn 1955); clusters beyond the number of classes count
    as wrong. Chance is about the share of the largest class.

    Raises:
        WavegenError: no labels, or not as many of one as of the other.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(_codes(truth, len(found)), _codes(found, len(truth)))
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def probe(train_z: Latents, train_labels: Labels, test_z: Float[np.ndarray, "K D"], test_labels: Labels) -> float:
    """Accuracy on the test clips, in [0, 1], of a linear probe fitted to the training clips.

    Multinomial logistic regression with an L2 penalty (C = 1) on latents standardised by the training clips
    (Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes").

    Raises:
        WavegenError: latents that are not (N, D), not finite, or of two sizes; not one label per clip; one class only;
            a test label that no training clip has.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(train_z)
    _check(test_z)
    if train_z.shape[1] != test_z.shape[1]:
        sizes = f"{train_z.shape[1]} and {test_z.shape[1]}"
        raise WavegenError(f"got train and test latents of sizes {sizes}, expected one; encode both with one model")
    _codes(train_labels, len(train_z), classes=2)
    _codes(test_labels, len(test_z))
    unknown = sorted(set(np.asarray(test_labels).tolist()) - set(np.asarray(train_labels).tolist()), key=str)
    if unknown:
        names = ", ".join(map(str, unknown[:5]))
        raise WavegenError(f"got test labels that no training clip has ({names}), expected known ones; split per class")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(model.fit(train_z, np.asarray(train_labels)).score(test_z, np.asarray(test_labels)))


def mig(z: Latents, factors: Mapping[str, Labels], *, bins: int = 20) -> float:
    """Mutual information gap: how far the dimension that knows most of a factor is ahead of the next, in [0, 1].

    Chen et al. 2018, "Isolating Sources of Disentanglement in Variational Autoencoders", eq. 6: the mean over factors v
    of (I(z_best; v) - I(z_next; v)) / H(v). I is that of the counts over a histogram of each dimension with `bins` bins
    of equal mass (a value that fills several stays whole), in nats. It is not corrected for bias, which falls with the
    number of clips: factors read off one dimension each, with a little noise, score 0.85 on 500 clips and 0.94 on 5000.
    No I exceeds log `bins`, so that a factor of more classes than `bins` cannot reach 1: raise it if clips abound.

    Raises:
        WavegenError: `z` is not (N, D >= 2), or not finite; no factors; a factor without one label per clip, of one
            class, or of nearly as many as there are clips; fewer than 2 bins.
    """
    from sklearn.metrics import mutual_info_score

    codes = _factors(z, factors)
    if bins < 2:
        raise WavegenError(f"got a histogram of {bins} bins, expected 2 or more; leave it at 20")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    binned = [np.searchsorted(np.quantile(column, inner), column, side="right") for column in z.T]
    shares = [[mutual_info_score(column, v) / mutual_info_score(v, v) for v in codes] for column in binned]
    return _gap(np.array(shares))


def sap(z: Latents, factors: Mapping[str, Labels]) -> float:
    """Separated attribute predictability, from 0 to 1 - 1 / (classes of a factor).

    Kumar, Sattigeri and Balakrishnan 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations", section 3: the mean over factors of how far the dimension that predicts a factor best is ahead of the
    next, in balanced accuracy. A dimension predicts a factor of K classes by K - 1 thresholds, found by a decision tree
    of K leaves on the same clips, as there.

    Raises:
        WavegenError: as `mig`.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    def score(column: np.ndarray, v: np.ndarray) -> float:
        tree = DecisionTreeClassifier(max_leaf_nodes=int(v.max()) + 1, class_weight="balanced", random_state=0)
        return float(balanced_accuracy_score(v, tree.fit(column, v).predict(column)))

    codes = _factors(z, factors)
    return _gap(np.array([[score(column[:, None], v) for v in codes] for column in z.T]))


class DCI(NamedTuple):
    """Three scores in [0, 1], 1 the best; see `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(z: Latents, factors: Mapping[str, Labels], *, seed: int = 0) -> DCI:
    """Does a dimension tell of one factor only, is a factor told by one dimension only, and is it told at all?

    Eastwood and Williams 2018, "A Framework for the Quantitative Evaluation of Disentangled Representations". The
    importance of dimension i for factor j is the decrease of impurity in a random forest (100 trees, every dimension
    tried at every split, 5 clips or more a leaf). Disentanglement is 1 less the entropy of a row, in units of the log
    of the number of factors, weighted by the row's importance; completeness 1 less that of a column, averaged;
    informativeness the forests' mean accuracy on clips that their trees have not seen (out of bag), so that knowing
    nothing gives chance, not 0.

    Raises:
        WavegenError: as `mig`; fewer than two factors.
    """
    from sklearn.ensemble import RandomForestClassifier

    codes = _factors(z, factors)
    if len(codes) < 2:
        raise WavegenError(f"got one factor, {next(iter(factors))}, expected 2 or more to tell apart; add another")
    settings: dict[str, Any] = {"max_features": None, "min_samples_leaf": 5, "oob_score": True, "random_state": seed}
    forest = RandomForestClassifier(100, **settings)
    importance, known = np.empty((z.shape[1], len(codes))), np.empty(len(codes))
    for j, v in enumerate(tqdm(codes, desc="forests", leave=False, disable=None)):
        forest.fit(z, v)
        importance[:, j], known[j] = forest.feature_importances_, forest.oob_score_
    rows, columns = _concentration(importance), _concentration(importance.T)
    weights = importance.sum(1) / max(importance.sum(), 1e-12)
    return DCI(float(weights @ rows), float(columns.mean()), float(known.mean()))


def centroid(mel: Float[Tensor, "B M F"], spec: MelSpec) -> Float[Tensor, " B"]:
    """Spectral centroid in Hz: the mean frequency of all frames, weighted by magnitude.

    A band counts with its mean magnitude times its width, so that the warping of the mel scale and the norm of the
    filters cancel: white noise has the centroid (fmin + fmax) / 2. Loud frames count more than soft ones, silent
    padding next to nothing.

    Raises:
        WavegenError: not a mel of `spec`.
    """
    if mel.ndim != 3:
        raise WavegenError(f"got a mel of shape {tuple(mel.shape)}, expected (batch, bins, frames); add the batch")
    filters = spec.filters().to(mel)
    hertz = torch.linspace(0, spec.rate / 2, len(filters)).to(mel)
    area = filters.sum(0).clamp(min=1e-12)  # a band too narrow for any bin has none, and no magnitude either
    width = area**2 / filters.square().sum(0).clamp(min=1e-24)
    share = spec.amplitude(mel).sum(-1) / area ** (1 / spec.power) * width * (filters.sum(0) > 0)
    return share @ (hertz @ filters / area) / share.sum(-1)


def pitch(wav: Float[Tensor, " T"], rate: int, *, fmin: float = 60.0, fmax: float = 400.0) -> float:
    """Median fundamental frequency in Hz over the voiced frames, to within about 0.5 %; NaN when nothing is voiced.

    Probabilistic YIN (Mauch and Dixon 2014) between `fmin` and `fmax` Hz, over frames of four periods of `fmin` or
    more: the defaults span speech, children's too.

    Raises:
        WavegenError: a wav that is not (T,), empty or not finite; not 0 < fmin < fmax < rate / 2.
    """
    import librosa

    if wav.ndim != 1 or len(wav) == 0 or not wav.isfinite().all():
        raise WavegenError(
            f"got a wav of shape {tuple(wav.shape)}, expected (samples,) > 0, all finite; check the clip"
        )
    if not 0 < fmin < fmax < rate / 2:
        raise WavegenError(
            f"got pitches of {fmin:g} to {fmax:g} Hz, expected 0 < fmin < fmax < {rate / 2:g}; mend them"
        )
    length = 2 ** math.ceil(math.log2(4 * rate / fmin))
    samples = wav.detach().cpu().double().numpy()
    f0, voiced, _ = librosa.pyin(samples, fmin=fmin, fmax=fmax, sr=rate, frame_length=length)
    return float(np.median(f0[voiced])) if voiced.any() else math.nan


def monotone(values: Sequence[float] | Float[np.ndarray, " N"], *, tolerance: float = 0.0) -> bool:
    """Whether a sequence rises, or falls, from its first value to its last, and never turns back.

    Standing still is not turning back, nor is a step of up to `tolerance` times the whole change. A sequence that ends
    where it began is not monotone, nor is one with NaN (a pitch that was not found).

    Raises:
        WavegenError: fewer than two values; a negative tolerance.
    """
    if len(values) < 2 or tolerance < 0:
        got = f"{len(values)} values and a tolerance of {tolerance:g}"
        raise WavegenError(f"got {got}, expected 2 or more and at least 0; add steps or raise it")
    steps = np.diff(np.asarray(values, dtype=float))
    change = steps.sum()
    return bool(change != 0 and (steps * np.sign(change) >= -tolerance * abs(change)).all())


def _check(z: np.ndarray) -> None:
    if z.ndim != 2 or z.size == 0:
        raise WavegenError(f"got latents of shape {z.shape}, expected (clips, dimensions) > 0; encode some clips")
    if not np.isfinite(z).all():
        raise WavegenError("got latents with NaN or infinity, expected finite ones; check the model that encoded them")


def _codes(labels: Labels, clips: int, *, classes: int = 1, of: str = "") -> Int[np.ndarray, " N"]:
    """Labels as 0 .. K - 1."""
    if len(labels) != clips or clips == 0:
        raise WavegenError(f"got {len(labels)} labels{of} for {clips} clips, expected one each; label every clip")
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < classes:
        raise WavegenError(f"got labels{of} of one class, {names[0]}, expected {classes} or more; add clips of another")
    return codes


def _factors(z: np.ndarray, factors: Mapping[str, Labels]) -> list[Int[np.ndarray, " N"]]:
    """The codes of every factor, once it is sure that disentanglement can be asked for."""
    _check(z)
    if z.shape[1] < 2 or not factors:
        got = f"latents of size {z.shape[1]} and {len(factors)} factors"
        raise WavegenError(f"got {got}, expected 2 or more and 1 or more; disentanglement compares dimensions")
    codes = {name: _codes(labels, len(z), classes=2, of=f" of {name}") for name, labels in factors.items()}
    for name, code in codes.items():
        classes = int(code.max()) + 1
        if 2 * classes > len(z):  # nothing to learn but each clip
            got = f"{classes} values of {name} for {len(z)} clips"
            raise WavegenError(f"got {got}, expected 2 clips or more a value; group its values, as in low and high")
    return [*codes.values()]


def _gap(scores: Float[np.ndarray, "D K"]) -> float:
    """The best dimension's lead over the next, averaged over factors."""
    following, best = np.sort(scores, axis=0)[-2:]
    return float((best - following).mean())


def _concentration(importance: Float[np.ndarray, "R C"]) -> Float[np.ndarray, " R"]:
    """1 less the entropy of each row in units of the largest possible: 1 if one entry has it all, 0 if all share."""
    share = importance + 1e-12  # a row of zeros is shared by all
    share = share / share.sum(1, keepdims=True)
    return np.clip(1 + (share * np.log(share)).sum(1) / math.log(share.shape[1]), 0, 1)
