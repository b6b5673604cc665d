"""Spoken digits through a VAE: say any digit in the manner of a clip, find the ten digits unasked, walk a plane.

What:      a conditional VAE told the digit, whose latent is the manner; a latent without a decoder that clusters clips
           as it learns; and a VAE of two numbers, to look at all of
Data:      Free Spoken Digit Dataset, CC BY-SA 4.0: DIGIT_SPEAKER_NUMBER; numbers 0 to 4 are the test clips
Command:   python recipes/digits/vae.py --data PATH/fsdd/recordings --out runs/digits-vae
Papers:    Kingma and Welling, "Auto-encoding variational Bayes" (2014); Sohn et al., "Learning structured output
           representation" (2015), for the condition; Ji et al., "A decoder-free variational deep embedding" (2021)

It ends with tables (vae.md), pictures and sound. Hours, hardware and score: recipes/README.md. Run it again to resume.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Generator, Tensor
from torch.nn import functional

from wavegen import VAE, Clip, Corpus, InfoMax, Latent, Prefetch, Utterances, Vocoder, fit, load_voice, run, write
from wavegen.audio.pitch import pitch_of_mel
from wavegen.latents.explore import draw_grid, draw_map, path
from wavegen.latents.measures import accuracy, centroid, cluster, monotone, nmi, probe

DIGITS = tuple("0123456789")
LONGEST = 64  # frames, 0.74 s; hardly a digit takes longer
EVEN = 32  # frames of a clip that is stretched for clustering
Mel = Float[Tensor, "M F"]
BatchAt = Callable[[int], dict[str, Tensor]]


def main(
    *,
    data: Path,
    out: Path = Path("runs/digits-vae"),
    steps: int = 3000,
    preset: str = "digits",
    batch: int = 32,
    lr: float = 2e-3,
    vocoder: str = "kathleen-waveglow",
    seed: int = 0,
) -> None:
    """Train the three models and show what they can do.

    Args:
        data: the folder of clips.
        out: the folder of the runs, tables, pictures and sounds.
        steps: batches to learn from, twice as many for the first model; the learning rate falls to a twentieth.
        preset: of wavegen.VAE and wavegen.InfoMax.
        batch: clips a step; four times as many for clustering.
        lr: the highest learning rate.
        vocoder: what makes the sounds: a voice that ships, or a model file.
        seed: of weights, order and noise.
    """
    corpus, voice = Corpus.open(data), load_voice(vocoder)
    parts = [corpus.where(lambda clip, part=part: (number(clip) < 5) == part) for part in (False, True)]
    clips = [[(clip, mel) for clip, mel in zip(part, mels(part, voice), strict=True)] for part in parts]

    def trained(model: Latent, name: str, batch_at: BatchAt, valid: Any = (), *, times: int = 1) -> None:
        with Prefetch(batch_at) as ahead:
            fit(model, ahead, out=out / name, steps=times * steps, lr=lr, warmup=min(100, steps), decay="cosine",
                final=0.05, ema=0.995, valid=valid, every=min(500, steps), precision="bf16", seed=seed)  # fmt: skip
        model.cpu()

    torch.manual_seed(seed)
    said = {clip.id: int(digit(clip)) for clip in corpus}
    model = VAE.preset(preset, labels=DIGITS, beta=5.0)
    voice.check_mel(model.mel)
    shown = [Utterances(part, model.mel, batch=batch, longest=LONGEST, labels=said, seed=seed) for part in parts]
    trained(model, "conditional", shown[0], shown[1].all(), times=2)
    report = ["## Any digit in the manner of a clip", "", *conditional(model, *clips, voice=voice, out=out)]

    even = evened(*clips)
    torch.manual_seed(seed)
    finder = InfoMax.preset(preset, prior="mixture", components=len(DIGITS))
    plain = VAE.preset(preset, latent=finder.latent)
    drawn = [partial(picked, even[0], size * batch, seed) for size in (4, 1)]
    trained(finder, "clusters", drawn[0])
    trained(plain, "plain", drawn[1])
    report += ["", "## Ten clusters, without labels", "", *clusters(finder, plain, *clips, even)]

    torch.manual_seed(seed)
    flat = VAE.preset(preset, latent=2)
    shown = [Utterances(part, flat.mel, batch=batch, longest=LONGEST, seed=seed) for part in parts]
    trained(flat, "plane", shown[0], shown[1].all())
    walk(flat, clips[1], voice=voice, out=out)
    text = "\n".join(report)
    print(text)
    (out / "vae.md").write_text(text + "\n")


def digit(clip: Clip) -> str:
    """What is said."""
    return clip.id.split("_")[0]


def speaker(clip: Clip) -> str:
    """Who says it."""
    return clip.id.split("_")[1]


def number(clip: Clip) -> int:
    """The how-manieth time."""
    return int(clip.id.split("_")[2])


def mels(corpus: Corpus, voice: Vocoder) -> Iterator[Mel]:
    """The mel of each clip, at most `LONGEST` frames of it."""
    for batch in Utterances(corpus, voice.mel, batch=1, longest=LONGEST).all():
        yield batch["mel"][0]


Clips = list[tuple[Clip, Mel]]


def judge(clips: Clips, of: Callable[[Clip], str]) -> Callable[[list[Mel]], list[str]]:
    """A classifier that has nothing to do with the models: support vectors over stretched mels."""

    def seen(mels: list[Mel]) -> np.ndarray:
        return np.stack([functional.interpolate(mel[None].clamp(min=-11), size=24)[0].flatten() for mel in mels])

    parts = min(120, len(clips) - 1)
    machine = make_pipeline(StandardScaler(), PCA(parts, random_state=0), SVC(C=10))
    machine.fit(seen([mel for _, mel in clips]), [of(clip) for clip, _ in clips])
    return lambda mels: list(machine.predict(seen(mels)))


def share(found: list[str], asked: list[str]) -> str:
    """How many are as asked."""
    return f"{100 * np.mean([a == b for a, b in zip(found, asked, strict=True)]):.1f} %"


def conditional(model: VAE, train: Clips, test: Clips, *, voice: Vocoder, out: Path) -> Iterator[str]:
    """Every digit in the manner of every test clip, as judged; and voices between voices."""
    judges = {"digit": judge(train, digit), "speaker": judge(train, speaker)}
    made, asked = [], {"digit": [], "speaker": []}
    for clip, mel in test:
        z = model.encode(mel[None], label=model.label([digit(clip)]))
        made += model.decode(z.expand(len(DIGITS), -1), mel.shape[1], label=model.label(DIGITS))
        asked["digit"] += DIGITS
        asked["speaker"] += [speaker(clip)] * len(DIGITS)
    yield "| judged | recordings | made |\n|---|---|---|"
    real = [mel for _, mel in test]
    for name, of in (("digit", digit), ("speaker", speaker)):
        known, found = share(judges[name](real), [of(clip) for clip, _ in test]), share(judges[name](made), asked[name])
        yield f"| {name} | {known} | {found} |"
    first = {speaker(clip): row for row, (clip, _) in reversed(list(enumerate(test)))}
    rows = {name: made[row * len(DIGITS) : (row + 1) * len(DIGITS)] for name, row in first.items()}
    for name, row in rows.items():
        sound(row, voice, out / f"digits-as-{name}.wav")
    draw_grid(
        torch.stack([torch.stack([padded(mel) for mel in row]) for row in rows.values()]), out / "conditional.png"
    )
    told = probe(*described(model, train), *described(model, test))
    yield f"\nA linear probe of the latent names the speaker of {100 * told:.1f} % of the test clips."
    yield from between(model, test)


def described(model: VAE, clips: Clips) -> tuple[np.ndarray, list[str]]:
    """Latents, and who speaks."""
    z = [model.encode(mel[None], label=model.label([digit(clip)])) for clip, mel in clips]
    return torch.cat(z).numpy(), [speaker(clip) for clip, _ in clips]


def padded(mel: Mel) -> Mel:
    """With silence after it."""
    return functional.pad(mel, (0, LONGEST - mel.shape[1]), value=-11.5)


def between(model: VAE, test: Clips) -> Iterator[str]:
    """Whether pitch and brightness rise or fall all the way from one speaker to another, the digit being the same."""
    speakers = sorted({speaker(clip) for clip, _ in test})
    centres = {name: torch.cat([model.encode(mel[None], label=model.label([digit(clip)])) for clip, mel in test
                                if speaker(clip) == name]).mean(0) for name in speakers}  # fmt: skip
    bright, high = [], []
    for a, b in combinations(speakers, 2):
        steps = path(centres[a], centres[b], 5)
        said = torch.cat([model.decode(steps, 40, label=model.label([name] * 5)) for name in DIGITS], dim=2)
        bright.append(monotone(centroid(said, model.mel).tolist()))
        high.append(monotone(pitch_of_mel(said, model.mel).tolist()))
    yield f"Between two speakers, {len(bright)} pairs, monotone: the centroid in {100 * np.mean(bright):.0f} %,"
    yield f"F0 in {100 * np.mean(high):.0f} %."


def sound(made: list[Mel], voice: Vocoder, file: Path) -> None:
    """Write the sound of mels, one after another."""
    write(file, voice.synthesize(torch.cat(made, dim=1)[None], seed=0)[0], voice.mel.rate)


def evened(train: Clips, test: Clips) -> list[Tensor]:
    """Clips stretched to one length and loudness, each bin standardised over the clips of its speaker."""
    stretched = [torch.stack([functional.interpolate(mel[None], size=EVEN, mode="linear")[0] for _, mel in part])
                 for part in (train, test)]  # fmt: skip
    stretched = [part - part.mean((1, 2), keepdim=True) for part in stretched]
    who = [np.array([speaker(clip) for clip, _ in part]) for part in (train, test)]
    for name in set(who[0]):
        own = stretched[0][who[0] == name]
        mean, std = own.mean(0), own.std((0, 2), keepdim=True)[0].clamp(min=0.5)
        for part, names in zip(stretched, who, strict=True):
            part[names == name] = (part[names == name] - mean) / std
    return [2 * part - 5 for part in stretched]


def picked(mels: Float[Tensor, "N M F"], batch: int, seed: int, step: int) -> dict[str, Tensor]:
    """The batch of a step."""
    chosen = torch.randint(len(mels), (batch,), generator=Generator().manual_seed(1_000_003 * seed + step))
    return {"mel": mels[chosen], "frames": torch.full((batch,), EVEN)}


def clusters(finder: InfoMax, plain: VAE, train: Clips, test: Clips, even: list[Tensor]) -> Iterator[str]:
    """How well clusters agree with digits, over all clips."""
    everything = train + test
    said, who = ([of(clip) for clip, _ in everything] for of in (digit, speaker))
    stretched = torch.cat(even)
    raw = [mel for _, mel in everything]
    z = finder.encode(stretched)
    rows = {
        "k-means, mean and deviation of each mel bin": means(torch.stack([stats(mel) for mel in raw])),
        "the same, of stretched mels standardised by speaker": means(torch.stack([stats(mel) for mel in stretched])),
        "k-means, stretched mels standardised by speaker": means(stretched.flatten(1)),
        "k-means, latents of a plain VAE of these": means(plain.encode(stretched)),
        "k-means, latents without a decoder": means(z),
        "one step: the mixture prior of these latents": finder.responsibilities(z).argmax(1).numpy(),
    }
    yield "| clusters | NMI with digits | accuracy | NMI with speakers |\n|---|---|---|---|"
    for name, found in rows.items():
        yield f"| {name} | {nmi(found, said):.3f} | {accuracy(found, said):.3f} | {nmi(found, who):.3f} |"


def stats(mel: Mel) -> Tensor:
    """Mean and deviation of every bin."""
    return torch.cat([mel.mean(1), mel.std(1)])


def means(points: Tensor) -> np.ndarray:
    """Ten clusters."""
    return cluster(points.numpy(), len(DIGITS))


def walk(model: VAE, clips: Clips, *, voice: Vocoder, out: Path) -> None:
    """Where the clips lie in the plane, what lies at its places, and the sound of a walk through it."""
    points = torch.cat([model.encode(mel[None]) for _, mel in clips])
    for name, of in (("digit", digit), ("speaker", speaker)):
        draw_map(points, [of(clip) for clip, _ in clips], out / f"plane-by-{name}.png", factor=name)
    low, high = points.quantile(0.02, dim=0), points.quantile(0.98, dim=0)
    line = torch.linspace(0, 1, 8)
    places = torch.stack([low + (high - low) * torch.tensor([x, y]) for y in line for x in line])
    made = model.decode(places, 40)
    draw_grid(made.unflatten(0, (8, 8)), out / "plane.png")
    sound([made[row * 8 + row] for row in range(8)], voice, out / "walk.wav")


if __name__ == "__main__":
    run(main)
