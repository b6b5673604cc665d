"""WaveGlow on Kathleen, the fast voice that ships.

What:      a WaveGlow over the excitation of linear prediction, 32 samples a step ("edge": 1.52 M parameters)
Data:      Kathleen, CMU Arctic sentences, 1.2 h of training speech, 22,050 Hz, CC0; LJSpeech layout with train.csv,
           val.csv and test.csv
Command:   python recipes/kathleen/waveglow.py --data PATH/kathleen --out runs/kathleen-waveglow
Papers:    Prenger et al., "WaveGlow" (2019); Song et al., "ExcitNet vocoder" (2019)

Hours, hardware and score: recipes/README.md. Run it again to resume; Ctrl-C keeps all but the step under way.
"""

from pathlib import Path
from typing import Literal

import torch

from wavegen import Batches, Corpus, Prefetch, WaveGlow, fit, run, validation


def main(
    *,
    data: Path,
    out: Path = Path("runs/kathleen-waveglow"),
    steps: int = 48_000,
    preset: str = "edge",
    batch: int = 4,
    segment: int = 8192,
    lr: float = 2e-3,
    precision: Literal["fp32", "bf16", "fp16"] = "bf16",
    hours: float | None = None,
    seed: int = 0,
) -> None:
    """Train a WaveGlow on Kathleen's train.csv, scored on val.csv.

    Args:
        data: the corpus folder.
        out: the folder of the run; best.safetensors in it is the trained vocoder.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of wavegen.WaveGlow.
        batch: segments a step.
        segment: samples of a segment.
        lr: the highest learning rate.
        precision: of the matrix products.
        hours: stop, ready to be resumed, after so long.
        seed: of weights, order and noise.
    """
    torch.manual_seed(seed)
    model = WaveGlow.preset(preset)
    batches = Batches(Corpus.open(data, "train.csv"), model.mel, batch=batch, segment=segment, seed=seed)
    valid = validation(Corpus.open(data, "val.csv"), model.mel, seconds=1.5)
    with Prefetch(batches) as batch_at:
        fit(
            model, batch_at, out=out, steps=steps, lr=lr, warmup=min(500, steps), decay="cosine", final=0.05,
            ema=0.9995, valid=valid, every=min(1000, steps), precision=precision, hours=hours, seed=seed,
            preview=lambda net: {"copy": (net.synthesize(valid[0]["mel"][:1], seed=seed)[0], net.mel.rate)},
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
