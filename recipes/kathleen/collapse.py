"""When a latent dies, and what helps: a decoder that hears the past, with every remedy and with none.

What:      VAEs of one voice whose decoder sees all frames before the one it predicts; with ten times the KL it does
           without the latent, unless something is done. And the rate-distortion curve of a decoder without history
Data:      Kathleen, CMU Arctic sentences, 1.2 h of training speech, CC0; LJSpeech layout with train.csv and val.csv
Command:   python recipes/kathleen/collapse.py --data PATH/kathleen --out runs/kathleen-collapse
Papers:    Bowman et al., "Generating sentences from a continuous space" (2016); Fu et al., "Cyclical annealing" (2019);
           Kingma et al., "IAF" (2016); Burgess et al., "Understanding disentangling in beta-VAE" (2018); Zhu et al.,
           "BN-VAE" (2020); Razavi et al., "delta-VAE" (2019); Alemi et al., "Fixing a broken ELBO" (2018)

Nats are of a clip. Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavegen import VAE, Collapse, Corpus, Prefetch, Utterances, annealed, cyclical, fit, linear, run

STRONG: dict[str, Any] = {"history": True, "stride": 1, "depth": 6, "latent": 16, "channels": 96, "beta": 10.0}
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "linear annealing": {},
    "cyclical annealing": {},
    "free bits, 0.2 a unit": {"free_bits": 0.2},
    "capacity rising to 5 nats": {"capacity": 5.0},
    "BN-VAE, 0.5": {"norm": 0.5},
    "committed rate, 0.2 a unit": {"rate": 0.2},
    "beta 1": {"beta": 1.0},
}
BETAS = (0.1, 1.0, 10.0, 100.0)


def schedule(remedy: str, steps: int) -> Callable[[int], float] | None:
    """How the KL comes in over the steps of a remedy, if not at once."""
    if remedy.startswith(("linear", "capacity")):
        return linear(max(1, steps // 2), after=steps // 4)
    return cyclical(max(1, steps // 2), ramp=1.0) if remedy.startswith("cyclical") else None


def main(
    *,
    data: Path,
    out: Path = Path("runs/kathleen-collapse"),
    steps: int = 900,
    preset: str = "digits",
    batch: int = 16,
    longest: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train with every remedy and with every beta; write the tables collapse.md and rates.md and a picture.

    Args:
        data: the corpus folder.
        out: the folder of the runs, tables and the picture.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of wavegen.VAE.
        batch: clips a step.
        longest: frames of a clip that are looked at in a step.
        lr: the highest learning rate.
        seed: of weights, order and noise.
    """
    parts = [Corpus.open(data, split) for split in ("train.csv", "val.csv")]

    def trained(name: str, **changes: Any) -> dict[str, float]:
        torch.manual_seed(seed)
        model = VAE.preset(preset, **changes)
        clips, held = (Utterances(part, model.mel, batch=batch, longest=longest, seed=seed) for part in parts)
        slowly = schedule(name, steps)
        with Prefetch(annealed(clips, slowly) if slowly else clips) as batch_at:
            fit(model, batch_at, out=out / name.replace(" ", "-").replace(",", ""), steps=steps, lr=lr,
                warmup=min(100, steps), decay="cosine", final=0.05, ema=0.99, every=steps, precision="bf16",
                seed=seed)  # fmt: skip
        return scores(model.cpu(), held.collate([(clip, 0.5) for clip in range(len(parts[1]))]))

    found = {name: trained(name, **{**STRONG, **changes}) for name, changes in REMEDIES.items()}
    table = ["| remedy | active units | KL | information | reconstruction |", "|---|---|---|---|---|"]
    table += [
        f"| {name} | {100 * row['active']:.0f} % | {row['kl']:.2f} | {row['mi']:.2f} | {-row['reconstruction']:.0f} |"
        for name, row in found.items()
    ]
    curve = {beta: trained(f"rate {beta}", latent=STRONG["latent"], beta=beta) for beta in BETAS}
    rates = ["| beta | rate: KL | distortion: - log p(x given z) |", "|---|---|---|"]
    rates += [f"| {beta:g} | {row['kl']:.1f} | {row['reconstruction']:.0f} |" for beta, row in curve.items()]
    for name, lines in (("collapse.md", table), ("rates.md", rates)):
        print("\n".join(lines), end="\n\n")
        (out / name).write_text("\n".join(lines) + "\n")
    draw(curve, out / "rates.png")


@torch.no_grad()
def scores(model: VAE, batch: dict[str, Tensor]) -> dict[str, float]:
    """What `loss` tells of a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Collapse)
        return {name: float(value) for name, value in model.loss(batch).items()}


def draw(curve: dict[float, dict[str, float]], path: Path) -> None:
    """The rate-distortion curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    points = [(row["kl"], row["reconstruction"]) for row in curve.values()]
    axes.plot(*zip(*points, strict=True), "o-")
    for beta, point in zip(curve, points, strict=True):
        axes.annotate(f" beta {beta:g}", point)
    axes.set(xlabel="rate: KL, nats per clip", ylabel="distortion: - log p(x | z), nats per clip")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    run(main)
