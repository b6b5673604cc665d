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

from wavegen import VAE, Clip, Corpus, Prefetch, Utterances, Vocoder, fit, load_voice, run, write
from wavegen.latents.explore import draw_map, draw_path, path, plane
from wavegen.latents.measures import cluster, nmi, probe


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
    model = VAE.preset(preset)
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
    show(VAE.load(out / "best.safetensors"), test, out=out, voice=load_voice(vocoder))


def show(model: VAE, test: Corpus, *, out: Path, voice: Vocoder) -> None:
    """How well readers never heard are told apart, where they lie, and one's words in voices on the way to another."""
    mels = [batch["mel"] for batch in Utterances(test, model.mel, batch=1).all()]
    z = torch.cat([model.encode(mel) for mel in mels])
    who = [reader(clip) for clip in test]
    odd = torch.arange(len(z)) % 2 == 1
    names = [[name for name, is_odd in zip(who, odd, strict=True) if is_odd == half] for half in (False, True)]
    told = probe(z[~odd].numpy(), names[0], z[odd].numpy(), names[1])
    found = nmi(cluster(z.numpy(), len(set(who))), who)
    text = f"{len(set(who))} readers never heard: linear probe {100 * told:.1f} %, k-means NMI {found:.3f}"
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


if __name__ == "__main__":
    run(main)
