"""A WaveGlow for many voices, told by a style vector whose voice it is, beside one that is not told.

What:      the "edge" WaveGlow, started from Kathleen's voice, with the speaker VAE's latent of the clip as its style,
           and the same without
Data:      LibriSpeech, as in speaker_vae.py: 207 readers to train, 13 to validate; the 8 readers to test are never seen
Command:   python recipes/librispeech/waveglow.py --data PATH/librispeech-speakers --out runs/librispeech-waveglow
Papers:    Prenger et al., "WaveGlow" (2019)

Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from wavegen import (
    Batches,
    Clip,
    Corpus,
    Latent,
    Prefetch,
    WavegenError,
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


def scores(model: WaveGlow, corpus: Corpus, styles: dict[str, Tensor] | None) -> Float[Tensor, " N"]:
    """Nats of a sample on the middle three seconds of each clip."""
    nats = []
    for batch in validation(corpus, model.mel, batch=1, segment=256 * model.mel.hop, styles=styles, resample=True):
        torch.manual_seed(0)
        with torch.no_grad():
            nats.append(model.loss(batch)["nats"])
    return torch.stack(nats)


def main(
    *,
    data: Path,
    out: Path = Path("runs/librispeech-waveglow"),
    latent: str = "speakers",
    bins: int = 80,
    init: str = "kathleen-waveglow",
    steps: int = 8000,
    preset: str = "edge",
    lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train two WaveGlows on many voices, one told whose voice it is, and score them on voices that none has heard.

    Args:
        data: the folder of clips.
        out: the folder of the runs; styled/best.safetensors and plain/best.safetensors in it are the vocoders.
        latent: the VAE that says whose voice a clip has: one that ships, or a file.
        bins: bands of the mel; with fewer it says less, and the style has more to add.
        init: the voice to start from, an empty name for none; one with other bands cannot be.
        steps: batches to learn from; the learning rate falls to a twentieth over them.
        preset: of wavegen.WaveGlow.
        lr: the highest learning rate.
        seed: of weights, order and noise.
    """
    speakers = load_latent(latent)
    mel = dataclasses.replace(speakers.mel, bins=bins)
    corpus = Corpus.open(data)
    clips_of = Counter(reader(clip) for clip in corpus)
    single, test = (corpus.where(lambda clip, one=one: (clips_of[reader(clip)] == 1) == one) for one in (True, False))
    valid = single[::18]
    train = single.where(lambda clip: clip not in valid)
    styles = encoded(corpus, speakers)
    nats = {}
    for name, size in (("styled", speakers.latent), ("plain", 0)):
        torch.manual_seed(seed)
        model, given = WaveGlow.preset(preset, mel=mel, style=size), styles if size else None
        if init:
            take_up(model, init)
        batches = Batches(train, mel, batch=4, segment=8192, seed=seed, styles=given, resample=True)
        with Prefetch(batches) as batch_at:
            fit(
                model, batch_at, out=out / name, steps=steps, lr=lr, warmup=min(500, steps), decay="cosine",
                final=0.05, ema=0.999, valid=validation(valid, mel, styles=given, resample=True),
                every=min(1000, steps), precision="bf16", seed=seed,
            )  # fmt: skip
        nats[name] = scores(WaveGlow.load(out / name / "best.safetensors"), test, given)
    better, error = nats["plain"] - nats["styled"], math.sqrt(len(test))
    text = (
        f"{len(test)} clips of readers never heard, nats a sample: {nats['styled'].mean():.4f} with style, "
        f"{nats['plain'].mean():.4f} without; {better.mean():.5f} ± {better.std() / error:.5f} better clip by clip, "
        f"on {(better > 0).sum()} of them."
    )
    print(text)
    (out / "unseen.md").write_text(text + "\n")


def take_up(model: WaveGlow, init: str) -> None:
    """Start from the weights of a voice, which has no style."""
    voice = load_voice(init)
    if voice.config != {**model.config, "style": 0}:
        raise WavegenError(f"got {init} to start from, expected a voice of this preset and mel; try --init ''")
    model.load_state_dict(voice.state_dict(), strict=False)


if __name__ == "__main__":
    run(main)
