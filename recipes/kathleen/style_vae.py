"""A VAE of Kathleen's manner: how high, loud, bright and fast a sentence is said, in eight numbers.

What:      a VAE whose decoder is told what is said, in 12 broad bands, so that the latent holds how
Data:      Kathleen, CMU Arctic sentences, 1.2 h of training speech, CC0; LJSpeech layout with train.csv, val.csv and
           test.csv
Command:   python recipes/kathleen/style_vae.py --data PATH/kathleen --out runs/kathleen-style
Papers:    Zhang et al., "Learning latent representations for style control" (2019)

It ends with a table, pictures and the sound of each number going from low to high. Hours, hardware and score:
recipes/README.md. Run it again to resume.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LinearRegression

from wavegen import VAE, Corpus, Prefetch, Utterances, Vocoder, fit, load_voice, read, run, write
from wavegen.latents.explore import draw_path, traverse
from wavegen.latents.measures import centroid, pitch

SHOWN = (-2.0, -1.0, 0.0, 1.0, 2.0)  # values of a number that are heard


def main(
    *,
    data: Path,
    out: Path = Path("runs/kathleen-style"),
    steps: int = 2000,
    preset: str = "speakers",
    batch: int = 32,
    longest: int = 128,
    lr: float = 1e-3,
    vocoder: str = "kathleen-waveglow",
    hours: float | None = None,
    seed: int = 0,
) -> None:
    """Train the style VAE and show what its numbers mean.

    Args:
        data: the corpus folder.
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
    model, voice = VAE.preset(preset, latent=8), load_voice(vocoder)
    voice.check_mel(model.mel)
    train, valid, test = (Corpus.open(data, f"{part}.csv") for part in ("train", "val", "test"))
    clips = Utterances(train, model.mel, batch=batch, longest=longest, seed=seed)
    held = Utterances(valid, model.mel, batch=batch, longest=longest).all()
    with Prefetch(clips) as batch_at:
        fit(
            model, batch_at, out=out, steps=steps, lr=lr, warmup=min(200, steps), decay="cosine", final=0.05,
            ema=0.998, valid=held, every=min(500, steps), precision="bf16", hours=hours, seed=seed,
        )  # fmt: skip
    best = VAE.load(out / "best.safetensors")
    meaning(best, train[::5], test, out)
    hear(best, test, voice, out)


def described(model: VAE, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Latents of clips, and their pitch, loudness, brightness and rate."""
    latents, facts = [], []
    for clip in corpus:
        wav, rate = read(clip.path, rate=model.mel.rate)
        mel = model.mel(wav.unsqueeze(0))
        latents.append(model.encode(mel)[0].numpy())
        level = float(20 * wav.square().mean().sqrt().log10())
        facts.append([pitch(wav, rate), level, float(centroid(mel, model.mel)), len(clip.text) / (len(wav) / rate)])
    return np.stack(latents), np.array(facts)


def meaning(model: VAE, train: Corpus, test: Corpus, out: Path) -> None:
    """How much of each fact of a test clip is told by its latent, through linear regression."""
    (z, facts), (test_z, test_facts) = described(model, train), described(model, test)
    lines = ["| fact | explained by the latent: R² on test clips |", "|---|---|"]
    for name, known, asked in zip(("median F0", "level in dB", "centroid", "letters a second"), facts.T, test_facts.T,
                                  strict=True):  # fmt: skip
        there, here = np.isfinite(known), np.isfinite(asked)
        told = LinearRegression().fit(z[there], known[there]).score(test_z[here], asked[here])
        lines.append(f"| {name} | {told:.2f} |")
    print("\n".join(lines))
    (out / "meaning.md").write_text("\n".join(lines) + "\n")


def hear(model: VAE, test: Corpus, voice: Vocoder, out: Path) -> None:
    """A picture and a sound of each number of the latent from low to high, on a test clip."""
    mel = model.mel(read(test[0].path, rate=model.mel.rate)[0].unsqueeze(0))[..., :256]
    z, content = model.encode(mel)[0], model.contents(mel)
    for dimension in range(model.latent):
        steps = traverse(z, dimension, values=SHOWN)
        given = None if content is None else content.expand(len(steps), -1, -1)
        made = model.decode(steps, mel.shape[-1], content=given)
        draw_path(made, out / f"number-{dimension}.png", names=[f"{value:g}" for value in SHOWN])
        write(out / f"number-{dimension}.wav", voice.synthesize(made, seed=0).flatten(), voice.mel.rate)


if __name__ == "__main__":
    run(main)
