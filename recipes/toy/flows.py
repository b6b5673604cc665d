"""Six families of flows on four densities of the plane, and pictures of what they learned.

What:      NICE, RealNVP, Glow, MADE, MAF and IAF: the density, samples, and how noise gets there step by step
Data:      two moons, rings, checkerboard and pinwheel, drawn here; no limit to them, so a fresh batch every step
Command:   python recipes/toy/flows.py --out runs/toy-flows
Papers:    Dinh et al., "NICE" (2015) and "Real NVP" (2017); Kingma and Dhariwal, "Glow" (2018); Germain et al.,
           "MADE" (2015); Papamakarios et al., "MAF" (2017); Kingma et al., "IAF" (2016)

Hours, hardware and score: recipes/README.md. Needs matplotlib (the extra `eval`). Run it again to resume.
"""

import math
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from wavegen import IAF, MADE, MAF, NICE, Flow, Glow, RealNVP, fit, run

Points = Float[Tensor, "N 2"]

FAMILIES = (NICE, RealNVP, Glow, MADE, MAF, IAF)
REACH = 4.0  # of the pictures, on either side
CELLS = 120  # along them


def moons(u: Points, noise: Points) -> Points:
    """Two half circles, each reaching into the other."""
    angle, upper = math.pi * u[:, 0], u[:, 1] < 0.5
    arc = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    return 1.6 * torch.where(upper.unsqueeze(1), arc, -arc) + 0.12 * noise


def rings(u: Points, noise: Points) -> Points:
    """Three circles about the origin."""
    angle, radius = 2 * math.pi * u[:, :1], 1 + (3 * u[:, 1:]).floor()
    return radius * torch.cat([angle.cos(), angle.sin()], dim=1) + 0.1 * noise


def checkerboard(u: Points, noise: Points) -> Points:
    """Every other square of six by six."""
    x, y = 6 * u[:, 0] - 3, 6 * u[:, 1] - 3
    row = 2 * ((y + 3) / 2).floor() + x.floor() % 2  # squares of side 1, every other one
    return torch.stack([x, row + y % 1 - 3], dim=1)


def pinwheel(u: Points, noise: Points) -> Points:
    """Five bent arms."""
    radius = 2 + 0.6 * noise[:, 0]
    angle = 2 * math.pi / 5 * (5 * u[:, 0]).floor() + 0.12 * noise[:, 1] + 0.5 * radius
    return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1)


DENSITIES = {"moons": moons, "rings": rings, "checkerboard": checkerboard, "pinwheel": pinwheel}


def points(name: str, batch: int, seed: int, step: int) -> dict[str, Points]:
    """The batch of a step; those of training are numbered from 0."""
    generator = Generator().manual_seed(1_000_003 * seed + step + 2)
    u, noise = torch.rand(batch, 2, generator=generator), torch.randn(batch, 2, generator=generator)
    return {"x": DENSITIES[name](u, noise)}


def main(
    *,
    out: Path = Path("runs/toy-flows"),
    steps: int = 1000,
    preset: str = "points",
    batch: int = 256,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Fit every family to every density, print their nats and write one picture a density.

    Args:
        out: the folder of the runs and of the pictures.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of the flows.
        batch: points a step.
        lr: the highest learning rate.
        seed: of weights and points.
    """
    for name in DENSITIES:
        batch_at = partial(points, name, batch, seed)
        test = points(name, 10_000, seed, -1)
        flows: dict[str, tuple[Flow, float]] = {}
        for family in FAMILIES:
            torch.manual_seed(seed)
            flow = family.preset(preset)
            flow.loss(batch_at(0))  # by which ActNorm sets itself
            fit(flow, batch_at, out=out / name / family.__name__, steps=steps, lr=lr, warmup=min(100, steps),
                decay="cosine", final=0.05, ema=0.99, every=steps, seed=seed)  # fmt: skip
            with torch.no_grad():
                flows[family.__name__] = flow, float(flow.loss(test)["nats"])
        print(f"{name:<13}" + "".join(f"{family:>9} {nats:6.3f}" for family, (_, nats) in flows.items()))
        draw(flows, test["x"][:2000], out / f"{name}.png")


@torch.no_grad()
def draw(flows: dict[str, tuple[Flow, float]], data: Points, path: Path) -> None:
    """A row for each flow: data, its density, and noise on its way through the steps, in one colour a direction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * 6, 3 * len(flows)), layout="constrained")
    line = torch.linspace(-REACH, REACH, CELLS)
    noise = torch.randn(data.shape, generator=Generator().manual_seed(0))
    color = torch.atan2(noise[:, 1], noise[:, 0])
    for row, (name, (flow, nats)) in zip(figure.subplots(len(flows), 6), flows.items(), strict=True):
        density = flow.log_prob(torch.cartesian_prod(line, line)).exp().view(CELLS, CELLS).T
        row[0].scatter(*data.T, s=2, linewidths=0)
        row[1].imshow(density, extent=(-REACH, REACH) * 2, origin="lower", vmax=float(density.quantile(0.995)))
        count, way = len(flow.transform.steps), [noise]
        for step in reversed(flow.transform.steps):
            way.append(step.inverse(way[-1])[0])
        stops = [0, round(count / 3), round(2 * count / 3), count]
        for panel, stop in zip(row[2:], stops, strict=True):
            panel.scatter(*way[stop].T, c=color, cmap="hsv", s=2, linewidths=0)
        titles = ["data", f"{name}: {nats:.2f} nats", "noise", "", "", "samples"]
        titles[3:5] = (f"after {stop} of {count} steps" for stop in stops[1:3])
        for panel, title in zip(row, titles, strict=True):
            panel.set(title=title, xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    run(main)
