"""WaveGlow on LJSpeech, or on any folder of recordings at the rate of its mel.

What:      a WaveGlow over the excitation of linear prediction, 32 samples a step ("edge": 1.5 M parameters);
           --preset nvidia-256 is the published architecture
Data:      LJSpeech 1.1, one reader, 24 h at 22,050 Hz, public domain. The first 100 clips are kept for testing
           (`wavegen evaluate --clips 100`), the next 150 for validation; of a smaller corpus, an eighth for each
Command:   python recipes/ljspeech/waveglow.py --data data/LJSpeech-1.1 --out runs/ljspeech-waveglow
Papers:    Prenger et al., "WaveGlow" (2019); Song et al., "ExcitNet vocoder" (2019)

Not yet trained by us: no hours, no score. Run it again to resume; Ctrl-C keeps all but the step under way.
"""

from pathlib import Path
from typing import Literal

import torch

from wavegen import Batches, Corpus, Prefetch, WaveGlow, fit, run, validation


def main(
    *,
    data: Path,
    out: Path = Path("runs/ljspeech-waveglow"),
    steps: int = 200_000,
    preset: str = "edge",
    batch: int = 4,
    segment: int = 8192,
    lr: float = 2e-3,
    precision: Literal["fp32", "bf16", "fp16"] = "bf16",
    hours: float | None = None,
    seed: int = 0,
) -> None:
    """Train a WaveGlow on all but the first clips of a corpus, which are kept for testing and validation.

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
    corpus = Corpus.open(data)
    first, count = min(100, len(corpus) // 8), min(150, len(corpus) // 8)
    torch.manual_seed(seed)
    model = WaveGlow.preset(preset)
    batches = Batches(corpus[first + count :], model.mel, batch=batch, segment=segment, seed=seed)
    valid = validation(corpus[first : first + count], model.mel, seconds=30.0)
    with Prefetch(batches) as batch_at:
        fit(
            model, batch_at, out=out, steps=steps, lr=lr, warmup=min(500, steps), decay="cosine", final=0.05,
            ema=0.9995, valid=valid, every=min(1000, steps), precision=precision, hours=hours, seed=seed,
            preview=lambda net: {"copy": (net.synthesize(valid[0]["mel"][:1], seed=seed)[0], net.mel.rate)},
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
