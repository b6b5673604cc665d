"""A WaveGlow for many voices, told by a style vector whose voice it is.

What:      the "edge" WaveGlow, started from Kathleen's voice, with the speaker VAE's latent of the clip as its style;
           `--no-styled` trains the same without, `--bins 20 --init ""` both on a coarser mel
Data:      LibriSpeech, as in speaker_vae.py: 208 readers to train, 12 to validate; the 8 readers to test are never seen
Command:   python recipes/librispeech/waveglow.py --data PATH/librispeech-speakers --out runs/librispeech-waveglow
Papers:    Prenger et al., "WaveGlow" (2019)

Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from wavegen import (
    Batches,
    Clip,
    Corpus,
    Latent,
    Prefetch,
    WaveGlow,
    fit,
    load_latent,
    load_voice,
    read,
    run,
    validation,
)


def reader(clip: Clip) -> str:
    """Who reads a clip."""
    return clip.id.split("-")[0]


def encoded(corpus: Corpus, latent: Latent) -> dict[str, Tensor]:
    """The style of each clip, by its id: the latent of all of it."""
    styles = {}
    for clip in tqdm(corpus, desc="styles", delay=1, disable=None):
        wav, _ = read(clip.path, rate=latent.mel.rate)
        styles[clip.id] = latent.encode(latent.mel(wav.unsqueeze(0)))[0]
    return styles


def score(model: WaveGlow, corpus: Corpus, styles: dict[str, Tensor] | None) -> tuple[float, float]:
    """Nats of a sample on the middle of each clip, and their standard error over clips."""
    nats = []
    for batch in validation(corpus, model.mel, batch=1, segment=64 * model.mel.hop, styles=styles, resample=True):
        torch.manual_seed(0)
        with torch.no_grad():
            nats.append(model.loss(batch)["nats"])
    found = torch.stack(nats)
    return float(found.mean()), float(found.std() / math.sqrt(len(found)))


def main(
    *,
    data: Path,
    out: Path = Path("runs/librispeech-waveglow"),
    latent: str = "speakers",
    styled: bool = True,
    bins: int = 80,
    init: str = "kathleen-waveglow",
    steps: int = 8000,
    preset: str = "edge",
    lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train a WaveGlow on many voices and score it on voices that it never heard.

    Args:
        data: the folder of clips.
        out: the folder of the run; best.safetensors in it is the trained vocoder.
        latent: the VAE that says whose voice a clip has: one that ships, or a file.
        styled: tell the vocoder; if not, it has to do without.
        bins: bands of the mel; with fewer it says less, and the style has more to add.
        init: the voice to start from, an empty name for none; one with other bands cannot be.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of wavegen.WaveGlow.
        lr: the highest learning rate.
        seed: of weights, order and noise.
    """
    torch.manual_seed(seed)
    speakers = load_latent(latent)
    mel = dataclasses.replace(speakers.mel, bins=bins)
    model = WaveGlow.preset(preset, mel=mel, style=speakers.latent if styled else 0)
    if init:
        model.load_state_dict(load_voice(init).state_dict(), strict=False)
    corpus = Corpus.open(data)
    clips_of = Counter(reader(clip) for clip in corpus)
    single, test = (corpus.where(lambda clip, one=one: (clips_of[reader(clip)] == 1) == one) for one in (True, False))
    valid = single[::18]
    train = single.where(lambda clip: clip not in valid)
    seen, held, unseen = (encoded(part, speakers) if styled else None for part in (train, valid, test))
    batches = Batches(train, model.mel, batch=4, segment=8192, seed=seed, styles=seen, resample=True)
    watched = validation(valid, model.mel, styles=held, resample=True)
    with Prefetch(batches) as batch_at:
        fit(
            model, batch_at, out=out, steps=steps, lr=lr, warmup=min(500, steps), decay="cosine", final=0.05,
            ema=0.999, valid=watched, every=min(1000, steps), precision="bf16", seed=seed,
        )  # fmt: skip
    best = WaveGlow.load(out / "best.safetensors")
    mean, error = score(best, test, unseen)
    text = f"{mean:.4f} ± {error:.4f} nats a sample on {len(test)} clips of readers never heard"
    print(text)
    (out / "unseen.txt").write_text(text + "\n")


if __name__ == "__main__":
    run(main)
