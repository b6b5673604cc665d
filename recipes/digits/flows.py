"""How likely handwritten digits are to six families of flows, beside two Gaussians.

What:      NICE, RealNVP, Glow, MADE, MAF and IAF; RealNVP and Glow see the image, the others 64 numbers
Data:      scikit-learn's 1,797 digits of 8 x 8 pixels (Alpaydin and Kaynak, 1998), which come with it: 1,297 to train,
           200 to validate, 300 to test. Levels 0 to 16 become continuous by uniform noise of one level
Command:   python recipes/digits/flows.py --out runs/digits-flows
Papers:    as recipes/toy/flows.py; Theis et al., "A note on the evaluation of generative models" (2016), for the noise

Nats are of an image, over pixels in levels; - nats / (64 ln 2) is a bound on the bits that a pixel takes. Hours,
hardware and score: recipes/README.md. Run it again to resume.
"""

import math
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from wavegen import IAF, MADE, MAF, NICE, Flow, Glow, RealNVP, fit, run

Images = Float[Tensor, "N 64"]

FAMILIES = (NICE, RealNVP, Glow, MADE, MAF, IAF)
SCALE = 8.0  # levels to one unit of a flow


def digits() -> tuple[Images, Images, Images]:
    """Levels to train, to validate and to test with, the latter two with their noise."""
    from sklearn.datasets import load_digits

    levels = torch.from_numpy(load_digits().data).float()
    levels = levels[torch.randperm(len(levels), generator=Generator().manual_seed(0))]
    valid, test = dequantised(levels[:500], seed=0).split([200, 300])
    return levels[500:], valid, test


def dequantised(levels: Images, *, seed: int) -> Images:
    """Levels made continuous."""
    return levels + torch.rand(levels.shape, generator=Generator().manual_seed(seed))


def items(images: Images, flow: Flow) -> dict[str, Tensor]:
    """Images as a flow sees them."""
    return {"x": ((images - SCALE) / SCALE).unflatten(1, flow.shape)}


def drawn(levels: Images, flow: Flow, batch: int, seed: int, step: int) -> dict[str, Tensor]:
    """The batch of a step."""
    number = 1_000_003 * seed + step + 1
    chosen = torch.randint(len(levels), (batch,), generator=Generator().manual_seed(number))
    return items(dequantised(levels[chosen], seed=number), flow)


def gaussians(levels: Images, test: Images) -> dict[str, Float[Tensor, " N"]]:
    """Log densities of the test images under Gaussians with the moments of the training images."""
    images = dequantised(levels, seed=1).double()
    mean, full = images.mean(0), images.T.cov()
    laws = {"diagonal Gaussian": full.diag().diag(), "full Gaussian": full}
    return {
        name: torch.distributions.MultivariateNormal(mean, covariance).log_prob(test.double())
        for name, covariance in laws.items()
    }


def main(
    *,
    out: Path = Path("runs/digits-flows"),
    steps: int = 1000,
    preset: str = "digits",
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Fit every family to the training images and score its best weights on the test images.

    Args:
        out: the folder of the runs and of the table, likelihood.md.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of the flows; "tiny" ones see 64 numbers.
        batch: images a step.
        lr: the highest learning rate.
        seed: of weights, order and noise.
    """
    levels, valid, test = digits()
    scores = gaussians(levels, test)
    for family in FAMILIES:
        torch.manual_seed(seed)
        flow = family.preset(preset, **({"shape": (64,)} if preset == "tiny" else {}))
        batch_at, folder = partial(drawn, levels, flow, batch, seed), out / family.__name__
        flow.loss(batch_at(0))  # by which ActNorm sets itself
        fit(flow, batch_at, out=folder, steps=steps, lr=lr, warmup=min(100, steps), decay="cosine", final=0.05,
            ema=0.99, valid=[items(valid, flow)], every=min(100, steps), seed=seed)  # fmt: skip
        best = family.load(folder / "best.safetensors")
        with torch.no_grad():
            scores[family.__name__] = best.log_prob(**items(test, best)) - test.shape[1] * math.log(SCALE)
    text = table(scores)
    print(text)
    (out / "likelihood.md").write_text(text + "\n")


def table(scores: dict[str, Float[Tensor, " N"]]) -> str:
    """Mean nats of an image with their standard error, and bits of a pixel."""
    rows = ["| model | nats per image | bits per pixel |", "|---|---|---|"]
    for name, nats in scores.items():
        mean, error = float(nats.mean()), float(nats.std() / math.sqrt(len(nats)))
        bits, spread = -mean / 64 / math.log(2), error / 64 / math.log(2)
        rows.append(f"| {name} | {mean:.1f} ± {error:.1f} | {bits:.3f} ± {spread:.3f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run(main)
