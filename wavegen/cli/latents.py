"""`wavegen latents`: what a latent space holds, seen and measured."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from cyclopts.validators import Path as Named

from wavegen.cli.options import LATENT, Count, Seed
from wavegen.errors import WavegenError

if TYPE_CHECKING:  # torch takes seconds to import: each verb imports what it needs
    from collections.abc import Mapping, Sequence

    from jaxtyping import Int64
    from torch import Tensor

    from wavegen.latents.base import Latent

__all__ = ["cluster", "encode", "grid", "map_", "measure", "probe"]

Picture = Annotated[Path, Parameter(name=["--output", "-o"], validator=Named(ext="png"))]
Latents = Annotated[Path, Parameter(name=["--output", "-o"], validator=Named(ext="safetensors"))]


def encode(
    folder: Path,
    *,
    output: Latents,
    latent: str = LATENT,
    split: str | None = None,
    factors: str | None = None,
    condition: str | None = None,
) -> None:
    r"""Encode every recording of a folder; the other verbs read what this one writes.

    Example: `wavegen latents encode digits -o z.safetensors --factors '(?P<digit>\d)_(?P<speaker>\w+)_\d+'`

    Args:
        folder: LJSpeech layout (metadata.csv and wavs/), or any folder of audio.
        output: the latents to write, .safetensors.
        latent: a latent that ships, or a model file.
        split: a list of the clips to use, such as test.csv in the folder.
        factors: what is known of the clips: a regular expression with named groups that each clip's id (its path in
            the folder without the suffix) must match, or a .csv file whose first line is id and names.
        condition: the factor that a latent with labels is told.
    """
    import torch
    from tqdm import tqdm

    from wavegen.cli.factors import read_factors
    from wavegen.cli.sound import encoded
    from wavegen.data import Corpus
    from wavegen.latents.explore import Collection, digest
    from wavegen.voices import load_latent

    corpus = Corpus.open(folder, split)
    ids = [clip.id for clip in corpus]
    known = read_factors(factors, ids) if factors else {}
    model = load_latent(latent)
    labels = _labels(model, condition, known) or [None] * len(ids)
    bar = tqdm(list(zip(corpus, labels, strict=True)), "encode", delay=1, disable=None)
    rows = [encoded(model, clip.path, label)[1] for clip, label in bar]
    Collection(ids, torch.cat(rows), known, Path(latent).stem, digest(model)).save(output)


def _labels(
    model: "Latent", condition: str | None, factors: "Mapping[str, Sequence[str]]"
) -> "Sequence[Int64[Tensor, ' 1']]":
    """The label of each clip, for a model that is told it; none for others."""
    if condition is None and not model.labels:
        return []
    if condition is None or condition not in factors or not model.labels:
        got = "no --condition" if condition is None else f"--condition {condition}"
        expected = f"one of the factors: {', '.join(factors) or 'add --factors'}" if model.labels else "none"
        raise WavegenError(f"got {got} for a latent with {len(model.labels)} labels, expected {expected}")
    return model.label(factors[condition]).split(1)


def map_(latents: Path, *, output: Picture, colour: str | None = None) -> None:
    """Draw where each clip lies, in two dimensions: those of most variance, if the latent has more.

    Example: `wavegen latents map z.safetensors -o map.png --colour speaker`

    Args:
        latents: what `wavegen latents encode` wrote.
        output: the picture, .png.
        colour: a factor, each of whose values gets a colour.
    """
    from wavegen.latents.explore import Collection, draw_map, plane

    found = Collection.load(latents)
    labels = found.factor(colour) if colour else [""] * len(found.ids)
    draw_map(plane(found.z).down(found.z), labels, output, factor=colour or "")


def grid(
    latents: Path,
    *,
    output: Picture,
    latent: str = LATENT,
    label: str | None = None,
    frames: Annotated[int, Parameter(validator=Number(gte=1, lte=2000))] = 64,
    content: Path | None = None,
    size: Annotated[int, Parameter(validator=Number(gte=2, lte=30))] = 7,
) -> None:
    """Decode the points of a grid over the map and draw their mels where they lie.

    Example: `wavegen latents grid z.safetensors -o grid.png --latent digits.safetensors --label 7`

    Args:
        latents: what `wavegen latents encode` wrote.
        output: the picture, .png.
        latent: what encoded them: a latent that ships, or a model file.
        label: the class to decode, for a latent with labels.
        frames: the length of each mel.
        content: a recording of what is said, for a latent that is told it; it gives the frames.
        size: points in a row, and rows.
    """
    import torch

    from wavegen.cli.sound import encoded
    from wavegen.cli.walks import decoded, decoder, label_of
    from wavegen.latents.explore import Collection, draw_grid, plane

    model, found = decoder(latent), Collection.load(latents)
    found.check(model, latent)
    if model.content and content is None:
        raise WavegenError(f"got no --content, expected a recording: {latent} is told what is said; name one")
    said = encoded(model, content, label_of(model, label))[0] if model.content and content else None
    flat = plane(found.z)
    edges = torch.quantile(flat.down(found.z), torch.tensor([0.02, 0.98]), dim=0)
    x, y = (torch.linspace(low, high, size) for low, high in edges.T.tolist())
    points = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1).flip(1)
    mels = decoded(model, flat.up(points), said, label=label, frames=frames)
    names = [[f"{value:.1f}" for value in axis.tolist()] for axis in (x, y)]
    draw_grid(mels.unflatten(0, (size, size)), output, across=names[0], upward=names[1])


def cluster(
    latents: Path, *, clusters: Count, truth: str | None = None, latent: str | None = None, seed: Seed = 0
) -> None:
    """Find clusters of clips, and say how well they match a factor that was not used to find them.

    Example: `wavegen latents cluster z.safetensors --clusters 10 --truth digit`

    Args:
        latents: what `wavegen latents encode` wrote.
        clusters: how many k-means should find.
        truth: a factor to compare with: normalised mutual information, and accuracy when every cluster is given a
            value of its own.
        latent: what encoded them, if its prior is a mixture: its own clusters are compared too.
        seed: where k-means starts.
    """
    from wavegen.latents import measures
    from wavegen.latents.explore import Collection
    from wavegen.voices import load_latent

    found = Collection.load(latents)
    right = found.factor(truth) if truth else None
    rows = {"k-means": measures.cluster(found.z.numpy(), clusters, seed=seed % (1 << 32))}
    if latent is not None:
        model = load_latent(latent)
        found.check(model, latent)
        rows["prior"] = model.responsibilities(found.z).argmax(dim=1).numpy()
    for name, row in rows.items():
        sizes = ", ".join(str(count) for _, count in Counter(list(row)).most_common())
        scores = f": NMI {measures.nmi(row, right):.3f}, accuracy {measures.accuracy(row, right):.3f}" if right else ""
        print(f"{name:8} {len(set(row))} clusters of {sizes} clips{scores}")


def probe(train: Path, test: Path, *, factor: str) -> None:
    """Learn to tell a factor from some latents, linearly, and count how often it is right on others.

    Example: `wavegen latents probe train.safetensors test.safetensors --factor speaker`

    Args:
        train: what `wavegen latents encode` wrote of the clips to learn from.
        test: and of the clips to be tested on, by the same latent.
        factor: what to tell.
    """
    from wavegen.latents import measures
    from wavegen.latents.explore import Collection

    seen, unseen = Collection.load(train), Collection.load(test)
    if seen.digest != unseen.digest:
        got = f"{seen.model} ({seen.digest}) and {unseen.model} ({unseen.digest})"
        raise WavegenError(f"got latents of {got}, expected those of one model; encode both with one --latent")
    truth = unseen.factor(factor)
    right = measures.probe(seen.z.numpy(), seen.factor(factor), unseen.z.numpy(), truth)
    chance = max(Counter(truth).values()) / len(truth)
    print(f"{factor}: {right:.1%} of {len(truth)} clips; the most frequent value alone would be {chance:.1%}")


def measure(latents: Path) -> None:
    """Measure how far each factor has a dimension to itself: MIG, SAP and DCI, all from 0 to 1, more is better.

    Example: `wavegen latents measure z.safetensors`

    Args:
        latents: what `wavegen latents encode --factors` wrote.
    """
    from wavegen.latents import measures
    from wavegen.latents.explore import Collection

    found = Collection.load(latents)
    z = found.z.numpy()
    print(f"MIG {measures.mig(z, found.factors):.3f}\nSAP {measures.sap(z, found.factors):.3f}")
    if len(found.factors) > 1:
        print(
            *(f"DCI {name} {value:.3f}" for name, value in measures.dci(z, found.factors)._asdict().items()), sep="\n"
        )
