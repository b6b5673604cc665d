"""A VAE of voices on 228 readers of LibriSpeech: the speaker latents that ship.

What:      a VAE whose decoder is told what is said, in 12 broad bands, so that 32 numbers are left to say by whom
Data:      LibriSpeech (Panayotov et al., 2015), CC BY 4.0: 207 readers of one clip each to train, 13 to validate, and
           8 readers of ten clips each, never trained on, to test; files named READER-CHAPTER-NUMBER
Command:   python recipes/librispeech/speaker_vae.py --data PATH/librispeech-speakers --out runs/librispeech-speakers
Papers:    Kingma and Welling, "Auto-encoding variational Bayes" (2014); Qian et al., "AutoVC" (2019), for the content

Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavegen import VAE, Clip, Corpus, Prefetch, Utterances, Vocoder, fit, load_voice, run, write
from wavegen.audio.pitch import pitch_of_mel
from wavegen.latents.explore import draw_map, draw_path, path, plane
from wavegen.latents.measures import centroid, cluster, monotone, nmi, probe


def reader(clip: Clip) -> str:
    """Who reads a clip."""
    return clip.id.split("-")[0]


def main(
    *,
    data: Path,
    out: Path = Path("runs/librispeech-speakers"),
    steps: int = 6000,
    preset: str = "speakers",
    batch: int = 32,
    longest: int = 128,
    lr: float = 1e-3,
    vocoder: str = "kathleen-waveglow",
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
        vocoder: what makes the sounds: a voice that ships, or a model file.
        hours: stop, ready to be resumed, after so long.
        seed: of weights, order and noise.
    """
    torch.manual_seed(seed)
    model, voice = VAE.preset(preset), load_voice(vocoder)
    voice.check_mel(model.mel)
    corpus = Corpus.open(data)
    clips_of = Counter(reader(clip) for clip in corpus)
    single, test = (corpus.where(lambda clip, one=one: (clips_of[reader(clip)] == 1) == one) for one in (True, False))
    valid = single[::18]
    train = single.where(lambda clip: clip not in valid)
    clips = Utterances(train, model.mel, batch=batch, longest=longest, seed=seed)
    held = Utterances(valid, model.mel, batch=batch, longest=longest).all()
    with Prefetch(clips) as batch_at:
        fit(
            model, batch_at, out=out, steps=steps, lr=lr, warmup=min(200, steps), decay="cosine", final=0.05,
            ema=0.998, valid=held, every=min(500, steps), precision="bf16", hours=hours, seed=seed,
        )  # fmt: skip
    show(VAE.load(out / "best.safetensors"), test, out=out, voice=voice)


def show(model: VAE, test: Corpus, *, out: Path, voice: Vocoder) -> None:
    """How well readers never heard are told apart, where they lie, and one's words in voices on the way to another."""
    mels = [batch["mel"] for batch in Utterances(test, model.mel, batch=1).all()]
    z = torch.cat([model.encode(mel) for mel in mels])
    who = [reader(clip) for clip in test]
    odd = np.arange(len(z)) % 2 == 1
    names = [[name for name, is_odd in zip(who, odd, strict=True) if is_odd == half] for half in (False, True)]
    told = probe(z[~odd].numpy(), names[0], z[odd].numpy(), names[1])
    found = nmi(cluster(z.numpy(), len(set(who))), who)
    raw = np.stack([np.r_[mel[0].mean(1), mel[0].std(1)] for mel in mels])
    plain = probe(raw[~odd], names[0], raw[odd], names[1])
    text = (
        f"{len(set(who))} readers never heard, half of their clips to learn from: linear probe {100 * told:.1f} %, "
        f"k-means NMI {found:.3f}; mean and deviation of each mel bin: probe {100 * plain:.1f} %.\n"
        + between(model, mels, who, z)
    )
    print(text)
    (out / "readers.md").write_text(text + "\n")
    draw_map(plane(z).down(z), who, out / "readers.png", factor="reader")
    first, last = 0, len(z) - 1
    mel = mels[first][..., :256]
    steps = path(z[first], z[last], 5)
    content = model.contents(mel)
    made = model.decode(steps, mel.shape[-1], content=None if content is None else content.expand(5, -1, -1))
    draw_path(made, out / "between.png")
    write(out / "between.wav", voice.synthesize(made, seed=0).flatten(), voice.mel.rate)


def between(model: VAE, mels: list[Tensor], who: list[str], z: Tensor) -> str:
    """Whether brightness and pitch rise or fall all the way from one reader's mean latent to another's."""
    first = {name: row for row, name in reversed(list(enumerate(who)))}
    centres = {name: z[[other == name for other in who]].mean(0) for name in first}
    bright, high = [], []
    for a, b in combinations(first, 2):
        mel = mels[first[a]][..., :160]
        content = model.contents(mel)
        made = model.decode(path(centres[a], centres[b], 5), mel.shape[-1],
                            content=None if content is None else content.expand(5, -1, -1))  # fmt: skip
        bright.append(centroid(made, model.mel).tolist())
        high.append(pitch_of_mel(made, model.mel).tolist())
    rising = [[100 * np.mean([monotone(row, tolerance=slack) for row in rows]) for slack in (0.0, 0.1)]
              for rows in (bright, high)]  # fmt: skip
    return (
        f"Between two of them in five steps, {len(high)} pairs, what rises or falls all the way: the centroid in "
        f"{rising[0][0]:.0f} % of the pairs, F0 in {rising[1][0]:.0f} %; with steps back of a tenth of the whole "
        f"allowed, {rising[0][1]:.0f} % and {rising[1][1]:.0f} %."
    )


if __name__ == "__main__":
    run(main)
