"""Walks through a latent space, collections of encoded clips, and pictures of both."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError
from wavegen.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Collection", "Plane", "digest", "draw_grid", "draw_map", "draw_path", "path", "plane", "traverse"]

GAP = 3  # blank pixels between two mels
WIDEST = 40.0  # inches of a picture
ROWS = 25  # names in a column of a legend


def path(
    a: Float[Tensor, " D"], b: Float[Tensor, " D"], steps: int, *, spherical: bool = False
) -> Float[Tensor, "S D"]:
    """So many latents from `a` to `b`, both included, equally far apart on a line.

    `spherical` turns the direction evenly along a great circle, while the norm changes evenly (Shoemake, 1985): latents
    of a Gaussian prior lie near a sphere, which a line leaves. Between opposite directions it takes one of the circles.

    Raises:
        WavegenError: fewer than two steps, or latents of two sizes.
    """
    if steps < 2 or a.shape != b.shape:
        got = f"{steps} steps between latents of {len(a)} and {len(b)} numbers"
        raise WavegenError(f"got {got}, expected 2 steps or more and one size; encode both ends with one model")
    share = torch.linspace(0, 1, steps, dtype=torch.float64, device=a.device).unsqueeze(1)
    start, end = a.double(), b.double()
    walk = _arc(start, end, share) if spherical else torch.lerp(start, end, share)
    return torch.cat([a.unsqueeze(0), walk[1:-1].to(a.dtype), b.unsqueeze(0)])


def _arc(a: Float[Tensor, " D"], b: Float[Tensor, " D"], share: Float[Tensor, "S 1"]) -> Float[Tensor, "S D"]:
    start, end = a.norm(), b.norm()
    u = functional.normalize(a if start > 0 else b, dim=0)  # zero has every direction
    v = functional.normalize(b if end > 0 else a, dim=0)
    aside = v - (u @ v) * u
    if aside.norm() < 1e-8:  # parallel: any way out will do, which leads nowhere unless they are opposite
        least = torch.zeros_like(u)
        least[u.abs().argmin()] = 1
        aside = least - (u @ least) * u
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    turned = torch.cos(share * angle) * u + torch.sin(share * angle) * functional.normalize(aside, dim=0)
    return torch.lerp(start, end, share) * turned


def traverse(z: Float[Tensor, " D"], dimension: int, *, values: Sequence[float]) -> Float[Tensor, "S D"]:
    """The latent once for each of `values`, which takes the place of one of its numbers, counted from 0.

    Raises:
        WavegenError: no such dimension.
    """
    if not 0 <= dimension < len(z):
        raise WavegenError(f"got dimension {dimension}, expected 0 to {len(z) - 1}; the latent has {len(z)} numbers")
    walk = z.repeat(len(values), 1)
    walk[:, dimension] = torch.tensor(values, dtype=z.dtype, device=z.device)
    return walk


def digest(model: Model) -> str:
    """Twelve hexadecimal digits that tell a model from any other: of its fields and weights."""
    sha = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        sha.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Collection:
    """Encoded clips: an id and a latent for each, what is known of them, and the model that encoded them.

    `factors` has, by the name of a factor such as "speaker", what it is for every clip. `model` is the name of the
    model, `digest` tells it from others.

    Raises:
        WavegenError: not one latent, or not one value of a factor, for each id; no clip; NaN or infinity.
    """

    ids: Sequence[str]
    z: Float[Tensor, "N D"]
    factors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    model: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if self.z.ndim != 2 or not self.z.numel() or len(self.z) != len(self.ids) or not self.z.isfinite().all():
            got = f"{len(self.ids)} ids for latents of shape {tuple(self.z.shape)}"
            raise WavegenError(
                f"got {got}, expected finite latents of shape (ids, numbers) > 0; encode the clips again"
            )
        for name, values in self.factors.items():
            if len(values) != len(self.ids):
                got = f"{len(values)} values of {name!r} for {len(self.ids)} clips"
                raise WavegenError(f"got {got}, expected one each; encode the clips again")

    def factor(self, name: str) -> Sequence[str]:
        """What a factor is for each clip.

        Raises:
            WavegenError: the collection does not say.
        """
        if name not in self.factors:
            known = ", ".join(self.factors) or "none; encode the clips with --factors"
            raise WavegenError(f"got the factor {name!r}, expected one that the clips were encoded with: {known}")
        return self.factors[name]

    def check(self, model: Model, name: str = "this model") -> None:
        """Refuse a model that did not encode the clips, whatever it says of their latents."""
        if (found := digest(model)) != self.digest:
            raise WavegenError(
                f"got latents of {self.model} ({self.digest}) for {name} ({found}), expected one model; "
                "name that which encoded the clips, or encode them again"
            )

    def save(self, file: Path | str) -> None:
        """Write it as safetensors, atomically.

        Raises:
            WavegenError: another suffix than .safetensors, or unwritable.
        """
        if Path(file).suffix != ".safetensors":
            raise WavegenError(f"cannot write latents to {file}: expected a name that ends in .safetensors; rename it")
        factors = {name: list(values) for name, values in self.factors.items()}
        header = {"ids": list(self.ids), "factors": factors, "model": self.model, "digest": self.digest}
        with write_aside(file) as aside:
            z = self.z.detach().cpu().float().contiguous()
            save_file({"z": z}, aside, metadata={"latents": json.dumps(header)})

    @classmethod
    def load(cls, file: Path | str) -> "Collection":
        """Read what `save` wrote.

        Raises:
            WavegenError: no such file, truncated, or not a collection.
        """
        if not Path(file).is_file():
            raise WavegenError(f"no latents at {file}; write them with `wavegen latents encode`")
        try:
            with safe_open(file, framework="pt") as opened:
                header = json.loads((opened.metadata() or {})["latents"])
                z = opened.get_tensor("z").float()
            names = [header["ids"], *header["factors"].values()]
            if not all(isinstance(row, list) and all(isinstance(name, str) for name in row) for row in names):
                raise TypeError("its names are no text")
            return cls(header["ids"], z, header["factors"], str(header["model"]), str(header["digest"]))
        except (SafetensorError, OSError, KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
            raise WavegenError(f"{file} is not a complete file of latents ({error}); encode the clips again") from error


class Plane(NamedTuple):
    """A flat map of a latent space: its origin, and two axes at right angles, of length 1."""

    origin: Float[Tensor, " D"]
    axes: Float[Tensor, "2 D"]

    def down(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N 2"]:
        """Where each latent, or its shadow, lies on the map."""
        return (z - self.origin) @ self.axes.T

    def up(self, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N D"]:
        """The latents at points of the map."""
        return self.origin + points @ self.axes


def plane(z: Float[Tensor, "N D"]) -> Plane:
    """The plane that keeps most of the variance, by principal components; of latents of two numbers, all of it as is.

    Raises:
        WavegenError: latents of fewer than two numbers.
    """
    size = z.shape[1]
    if size < 2:
        raise WavegenError(f"got latents of {size} number, expected 2 or more to draw a map; use a larger latent")
    if size == 2:
        return Plane(z.new_zeros(2), torch.eye(2, dtype=z.dtype, device=z.device))
    apart = z.double() - z.double().mean(0)
    axes = torch.linalg.eigh(apart.T @ apart).eigenvectors[:, [-1, -2]].T
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # or the map might come out mirrored
    return Plane(z.mean(0), axes.to(z.dtype))


def draw_map(points: Float[Tensor, "N 2"], labels: Sequence[str], file: Path | str, *, factor: str = "") -> None:
    """Write a PNG of points, coloured by label, with a legend that has `factor` for its title.

    Raises:
        WavegenError: not one label for each point; unwritable.
    """
    from matplotlib import colormaps

    if len(labels) != len(points):
        raise WavegenError(f"got {len(labels)} labels for {len(points)} points, expected one each; label every clip")
    names = sorted(set(labels), key=lambda name: (0, len(name), name) if name.isdecimal() else (1, 0, name))
    columns = math.ceil(len(names) / ROWS)
    figure = _figure(min(7 + 1.2 * columns, WIDEST), 6)
    panel = figure.subplots()
    shades = range(len(names)) if len(names) <= 10 else torch.linspace(0, 1, len(names)).tolist()
    colours = colormaps["tab10" if len(names) <= 10 else "turbo"](shades)
    for name, colour in zip(names, colours, strict=True):
        x, y = points.detach().cpu()[[label == name for label in labels]].T.numpy()
        panel.scatter(x, y, s=12, color=colour, label=(name or "all").replace("$", r"\$"), linewidths=0)
    panel.set(xlabel="first axis", ylabel="second axis")
    if len(names) > 1:
        figure.legend(loc="outside right upper", title=factor.replace("$", r"\$"), ncols=columns, markerscale=2)
    _write(figure, file)


def draw_grid(
    mels: Float[Tensor, "R C M F"], file: Path | str, *, across: Sequence[str] = (), upward: Sequence[str] = ()
) -> None:
    """Write a PNG of mels side by side in one scale, the first row at the bottom, with names of columns and rows.

    Raises:
        WavegenError: no mel, or not finite ones; unwritable.
    """
    if not mels.numel() or not mels.isfinite().all():
        raise WavegenError(f"got mels of shape {tuple(mels.shape)}, expected finite ones; decode them again")
    rows, columns, bins, frames = mels.shape
    padded = functional.pad(mels.detach().cpu().float(), (0, GAP, 0, GAP), value=math.nan)
    sheet = padded.permute(0, 2, 1, 3).reshape(rows * (bins + GAP), -1)[:-GAP, :-GAP]
    width = min(max(1.0, min(frames / 40, 3.0)) * columns + 2, WIDEST)
    figure = _figure(width, min((1.0 if rows > 1 else 2.0) * rows + 0.8, WIDEST))
    panel = figure.subplots()
    image = panel.imshow(sheet.numpy(), origin="lower", aspect="auto", interpolation="nearest")
    panel.set_xticks([(frames + GAP) * c + frames / 2 for c in range(len(across))], across)
    panel.set_yticks([(bins + GAP) * r + bins / 2 for r in range(len(upward))], upward)
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=panel, label="mel", fraction=0.03, pad=0.01)
    _write(figure, file)


def draw_path(mels: Float[Tensor, "S M F"], file: Path | str, *, names: Sequence[str] = ()) -> None:
    """Write a PNG of mels in a row and in one scale, with a name below each. Errors as `draw_grid`."""
    draw_grid(mels.unsqueeze(0), file, across=names)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # not through pyplot, which keeps global state and may open windows

    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: "Figure", file: Path | str) -> None:
    if Path(file).suffix.lower() != ".png":
        raise WavegenError(f"cannot draw {file}: expected a name that ends in .png; rename it")
    with write_aside(file) as aside:
        figure.savefig(aside, dpi=100)
