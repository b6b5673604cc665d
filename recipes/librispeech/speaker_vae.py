"""A VAE of voices on 228 readers of LibriSpeech: the speaker latents that ship.

What:      a VAE whose decoder is told what is said, in 12 broad bands, so that 32 numbers are left to say by whom
Data:      LibriSpeech (Panayotov et al., 2015), CC BY 4.0: 208 readers of one clip each to train, 12 to validate, and
           8 readers of ten clips each, never trained on, to test; files named READER-CHAPTER-NUMBER
Command:   python recipes/librispeech/speaker_vae.py --data PATH/librispeech-speakers --out runs/librispeech-speakers
Papers:    Kingma and Welling, "Auto-encoding variational Bayes" (2014); Qian et al., "AutoVC" (2019), for the content

Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

from collections import Counter
from pathlib import Path

import torch

from wavegen import VAE, Corpus, Prefetch, Utterances, fit, run


def reader(clip: str) -> str:
    """Who reads a clip, by its id."""
    return clip.split("-")[0]


def main(
    *,
    data: Path,
    out: Path = Path("runs/librispeech-speakers"),
    steps: int = 6000,
    preset: str = "speakers",
    batch: int = 32,
    longest: int = 128,
    lr: float = 1e-3,
    hours: float | None = None,
    seed: int = 0,
) -> None:
    """Train the speaker VAE and look at what it learned.

    Args:
        data: the folder of clips.
        out: the folder of the run; best.safetensors in it is the trained model.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of wavegen.VAE.
        batch: clips a step.
        longest: frames of a clip that are looked at in a step.
        lr: the highest learning rate.
        hours: stop, ready to be resumed, after so long.
        seed: of weights, order and noise.
    """
    torch.manual_seed(seed)
    model = VAE.preset(preset)
    corpus = Corpus.open(data)
    clips_of = Counter(reader(clip.id) for clip in corpus)
    single = corpus.where(lambda clip: clips_of[reader(clip.id)] == 1)
    valid = single[::18]
    train, test = (corpus.where(test) for test in (lambda clip: clip in single and clip not in valid, lambda clip: clip not in single))
    clips = Utterances(train, model.mel, batch=batch, longest=longest, seed=seed)
    held = Utterances(valid, model.mel, batch=batch, longest=longest).all()
    with Prefetch(clips) as batch_at:
        fit(
            model, batch_at, out=out, steps=steps, lr=lr, warmup=min(200, steps), decay="cosine", final=0.05,
            ema=0.998, valid=held, every=min(500, steps), precision="bf16", hours=hours, seed=seed,
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
