"""Which posterior and which prior? One VAE of spoken digits with each of them, in one table.

What:      the same encoder and decoder with nine laws of the latent, the posteriors with three seeds: the ELBO of test
           clips, and the importance-weighted bound, which is nearer to their likelihood
Data:      Free Spoken Digit Dataset, CC BY-SA 4.0: DIGIT_SPEAKER_NUMBER; numbers 0 to 4 are the test clips
Command:   python recipes/digits/bounds.py --data PATH/fsdd/recordings --out runs/digits-bounds
Papers:    Kingma et al., "IAF" (2016); Su and Wu, "f-VAEs" (2018); Vahdat and Kautz, "NVAE" (2020); Tomczak and
           Welling, "VampPrior" (2018); Burda et al., "Importance weighted autoencoders" (2016)

Nats are of a clip, of the density of its mel. Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from wavegen import VAE, Corpus, Prefetch, Utterances, fit, run

VARIANTS: dict[str, dict[str, Any]] = {
    "diagonal posterior, normal prior": {},
    "IAF posterior": {"posterior": "iaf"},
    "Glow posterior": {"posterior": "glow"},
    "hierarchical posterior and prior": {"posterior": "hierarchical"},
    "mixture prior": {"prior": "mixture"},
    "VampPrior": {"prior": "vamp", "components": 50},
    "flow prior": {"prior": "flow"},
    "IAF posterior, flow prior": {"posterior": "iaf", "prior": "flow"},
    "prior, encoder and decoder told the digit": {"prior": "conditional", "labels": tuple("0123456789")},
}
POSTERIORS = tuple(VARIANTS)[:3]  # which are compared over several seeds


def bounds(model: VAE, batches: list[dict[str, Tensor]], draws: int) -> dict[str, float]:
    """Means over clips of both bounds, the KL, and the share of active units."""
    torch.manual_seed(0)
    model.eval()
    parts = [model.bound(batch, k=draws) for batch in batches]
    with torch.no_grad():
        scalars = [model.loss(batch) for batch in batches]
    elbo, weighted = (torch.cat(part).mean() for part in zip(*parts, strict=True))
    kl, active = (torch.stack([each[name] for each in scalars]).mean() for name in ("kl", "active"))
    return {"ELBO": float(elbo), "weighted": float(weighted), "KL": float(kl), "active": 100 * float(active)}


def main(
    *,
    data: Path,
    out: Path = Path("runs/digits-bounds"),
    steps: int = 1000,
    preset: str = "digits",
    batch: int = 32,
    lr: float = 2e-3,
    seeds: int = 3,
    draws: int = 500,
) -> None:
    """Train every variant with every seed, and write the table bounds.md.

    Args:
        data: the folder of clips.
        out: the folder of the runs and of the table.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of wavegen.VAE.
        batch: clips a step.
        lr: the highest learning rate.
        seeds: runs of each of the first three variants; the others have one.
        draws: of the latent of each clip, for the importance-weighted bound.
    """
    corpus = Corpus.open(data)
    train, test = (corpus.where(lambda clip, part=part: held_out(clip.id) == part) for part in (False, True))
    digit = {clip.id: int(clip.id[0]) for clip in corpus}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    runs = [(seed, name) for seed in range(seeds) for name in (POSTERIORS if seed else VARIANTS)]
    for seed, name in tqdm(runs, desc="variants"):
        torch.manual_seed(seed)
        model = VAE.preset(preset, **VARIANTS[name])
        labels = digit if model.labels else None
        clips = Utterances(train, model.mel, batch=batch, longest=64, labels=labels, seed=seed)
        tests = Utterances(test, model.mel, batch=100, longest=64, labels=labels).all()
        with Prefetch(clips) as batch_at:
            fit(model, batch_at, out=out / f"{name}-{seed}".replace(" ", "-").replace(",", ""), steps=steps, lr=lr,
                warmup=min(100, steps), decay="cosine", final=0.05, ema=0.99, every=steps, precision="bf16",
                seed=seed)  # fmt: skip
        rows[name].append(bounds(model.cpu(), tests, draws))
        (out / "bounds.md").write_text(table(rows, draws) + "\n")
    print(table(rows, draws))


def held_out(clip: str) -> bool:
    """Whether a clip is a test clip."""
    return int(clip.rsplit("_", 1)[1]) < 5


def table(rows: dict[str, list[dict[str, float]]], draws: int) -> str:
    """Means over seeds, of the ELBO with their standard deviation where there are several."""
    lines = [
        f"| law of the latent | ELBO, nats per clip | bound of {draws} draws | KL | active |",
        "|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        if runs:
            cells = {key: torch.tensor([found[key] for found in runs]) for key in runs[0]}
            spread = f" ± {cells['ELBO'].std():.1f}" if len(runs) > 1 else ""
            lines.append(
                f"| {name} | {cells['ELBO'].mean():.1f}{spread} | {cells['weighted'].mean():.1f} | "
                f"{cells['KL'].mean():.1f} | {cells['active'].mean():.0f} % |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
