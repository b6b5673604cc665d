"""WaveNet: sound predicted from its own past, a step at a time (van den Oord et al., 2016).

Two additions make it learn from hours instead of weeks of computing, both exact and both off in the paper's presets:

*Linear prediction* (`order > 0`) turns sound x into an excitation u that is white and of unit variance, with filters
read off the mel (see `audio.lpc`). The network models u; since u is an invertible function of x, log p(x) = log p(u) -
log g.

*Blocks* (`block > 1`) predict several samples a step. Within a step, sample p follows the law about a linear function
of the samples before it, whose coefficients the network puts out too:

    u[p] = e[p] + sum_{q < p} A[p, q] u[q],    e[p] ~ law

which is again a change of variables, with determinant one; for one Gaussian a sample it makes the step a Gaussian
vector of any covariance.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wavegen.audio.lpc import excitation
from wavegen.audio.mel import MelSpec
from wavegen.distributions import LAWS, Law, MuLaw
from wavegen.errors import WavegenError
from wavegen.kernels.wavenet import ROWS
from wavegen.nn import GatedStack
from wavegen.vocoders import incremental
from wavegen.vocoders.base import STEP, Vocoder, scalars
from wavegen.vocoders.conditioning import Smooth
from wavegen.vocoders.pieces import Draw

__all__ = ["WaveNet"]

SMALL: dict[str, Any] = {"layers": 20, "stacks": 2, "residual": 64, "gate": 64, "skip": 128, "head": 128}
R9Y9: dict[str, Any] = {"kernel": 3, "residual": 128, "gate": 128, "skip": 128, "head": 128, "cond": 80}


@dataclass(eq=False, repr=False)
class WaveNet(Vocoder):
    """Causal gated convolutions over past samples, conditioned on a mel and a style.

    Sizes: `layers` in `stacks` whose dilations double from 1; `residual`, `gate` (pairs), `skip` and `head` channels;
    `cond` channels of conditioning, 0 for none; `style` dimensions of the style vector, 0 for none. The mel enters as
    `(mel - mel_mean) / mel_std`, through convolutions of widths `context` over frames, with zeros beyond both `edges`
    or the frames there repeated, then through the `upsampler`: "smooth" (`Upsample`) or "transposed" (`UpsampleBands`).

    The law of a sample is "mulaw" (`classes`), "logistics" or "gaussians" (`components`, `log_scale_min`). `polish`
    is the number of projections (`audio.griffin_lim.agree`) that bring the sound made closer to the mel asked for, and
    `temperature` the one to draw at when none is asked for.
    """

    mel: MelSpec = MelSpec.named("r9y9")  # noqa: RUF009 - frozen
    law: Literal["mulaw", "logistics", "gaussians"] = "mulaw"
    classes: int = 256
    components: int = 10
    log_scale_min: float = -16.0
    layers: int = 30
    stacks: int = 3
    kernel: int = 2
    residual: int = 32
    gate: int = 32
    skip: int = 512
    head: int = 256
    cond: int = 80
    context: tuple[int, ...] = (5,)
    edges: Literal["zeros", "replicate"] = "zeros"
    upsampler: Literal["smooth", "transposed"] = "smooth"
    mel_mean: float = 0.0
    mel_std: float = 1.0
    style: int = 0
    block: int = 1
    order: int = 0
    polish: int = 0
    temperature: float = 1.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {
            "law": "gaussians", "components": 1, "layers": 4, "stacks": 2, "residual": 16, "gate": 16, "skip": 16,
            "head": 16, "cond": 16, "block": 8, "order": 16, "log_scale_min": -7.0, "polish": 2,
            "mel": MelSpec.named("hifigan"), "mel_mean": -5.0, "mel_std": 3.0,
        },
        "edge": {
            "law": "gaussians", "components": 1, "layers": 12, "stacks": 2, "residual": 128, "gate": 128, "skip": 128,
            "head": 128, "cond": 96, "context": (5, 3), "block": 16, "order": 32, "log_scale_min": -7.0,
            "polish": 16, "temperature": 0.5,
            "mel": MelSpec.named("hifigan"), "mel_mean": -5.0, "mel_std": 3.0,
        },
        "paper": {},
        "r9y9-mulaw256": {**R9Y9},
        "r9y9-mol": {**R9Y9, "law": "logistics", "layers": 24, "stacks": 4},
        "r9y9-gaussian": {**R9Y9, "law": "gaussians", "components": 1, "layers": 24, "stacks": 4},
        "nv-wavenet": {
            "layers": 16, "stacks": 2, "residual": 64, "gate": 64, "skip": 256, "head": 256,
            "mel": MelSpec(rate=16000, n_fft=800, hop=200, win=800),
        },
        "small": {**SMALL},
        "small-unconditional": {**SMALL, "cond": 0},
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__init__()
        self.check_fields(self._conditions())
        self.conditioning = None
        if self.cond:
            steps, bands = self.mel.hop // self.block, self.upsampler == "transposed"
            sizes = {"steps": steps, "context": self.context, "edges": self.edges, "bands": bands}
            self.conditioning = Smooth(self.mel.bins, self.cond, **sizes)
        self.front = nn.Parameter(torch.randn(self.block, self.inputs, self.residual) / math.sqrt(self.block))
        self.front_bias = nn.Parameter(torch.zeros(self.residual))
        self.stack = GatedStack(
            self.residual, self.gate, self.skip, dilations=self.dilations, kernel=self.kernel, cond=self.cond,
            style=self.style,
        )  # fmt: skip
        self.hidden = nn.Linear(self.skip, self.head)
        self.out = nn.Linear(self.head, self.block * self.sample_law.width + self.links)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if not isinstance(self.sample_law, MuLaw) and self.components > 1:  # spread, or all would learn the same
            by_law = self.out.bias.data[: self.block * self.sample_law.width].view(self.block, 3, self.components)
            by_law[:, 1] = torch.linspace(-0.5, 0.5, self.components)

    def _conditions(self) -> Iterator[tuple[str, str, bool]]:
        """Fields, what is expected of them, and whether it holds."""
        yield "layers stacks block", "positive numbers", min(self.layers, self.stacks, self.block) > 0
        yield "layers stacks", "whole stacks of layers", self.layers % self.stacks == 0
        yield "kernel", "2 taps or more", self.kernel > 1
        channels = (self.residual, self.gate, self.skip, self.head)
        yield "residual gate skip head", f"positive multiples of {ROWS}", all(n > 0 and n % ROWS == 0 for n in channels)
        odd = all(width > 0 and width % 2 == 1 for width in self.context)
        yield "context", "odd widths", odd
        deep = len(self.context) > 0 or self.cond in (0, self.mel.bins)
        yield "context cond", f"a width at least, or as many channels as the mel has bins, {self.mel.bins}", deep
        yield "edges", "zeros or replicate", self.edges in ("zeros", "replicate")
        yield "upsampler", "smooth or transposed", self.upsampler in ("smooth", "transposed")
        yield "cond style order polish", "0 or more", min(self.cond, self.style, self.order, self.polish) >= 0
        yield "law", f"one of {', '.join(LAWS)}", self.law in LAWS
        yield "block", f"a divisor of the hop, {self.mel.hop}", self.mel.hop % self.block == 0
        whole = self.mel.hop % (4 * self.block) == 0
        yield "order block", "order 0, or whole blocks in a quarter of the hop", whole or not self.order
        yield "law order", "a continuous law, or order 0", self.law != "mulaw" or not self.order
        middle = self.mel.centring == "middle"
        aligned = middle or not (self.polish or self.order)
        yield "polish order mel", "polish and order 0, or a mel with centring 'middle'", aligned

    @property
    def sample_law(self) -> Law:
        """The law of one sample."""
        return MuLaw(self.classes) if self.law == "mulaw" else LAWS[self.law](self.components, self.log_scale_min)

    @property
    def inputs(self) -> int:
        """Numbers a past sample enters as: one, or a class of so many."""
        return self.classes if self.law == "mulaw" else 1

    @property
    def links(self) -> int:
        """Coefficients between the samples of a step."""
        return 0 if self.law == "mulaw" else self.block * (self.block - 1) // 2

    @property
    def dilations(self) -> tuple[int, ...]:
        per_stack = self.layers // self.stacks
        return tuple(2 ** (layer % per_stack) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Past samples (of the sound, or of its excitation) that a prediction depends on."""
        return self.block * (1 + (self.kernel - 1) * sum(self.dilations))

    def steps_condition(self, mel: Float[Tensor, "B M F"] | None) -> Float[Tensor, "N B C"] | None:
        """The conditioning channels of every step, None without conditioning."""
        if self.conditioning is None or mel is None:
            return None
        return self.conditioning((mel - self.mel_mean) / self.mel_std)

    def parameters_of(
        self,
        u: Float[Tensor, "B T"],
        mel: Float[Tensor, "B M F"] | None = None,
        style: Float[Tensor, "B D"] | None = None,
    ) -> tuple[Float[Tensor, "N B P W"], Float[Tensor, "N B K"]]:
        """Parameters of the law of every sample given those of earlier steps, and the links within each step."""
        past = functional.pad(self.steps(u)[:-1], (0, 0, 0, 0, 1, 0))
        y = functional.relu(self.stack(self.embed(past), self.steps_condition(mel), style))
        exact = self.law != "mulaw"  # means and log scales need more digits than bfloat16's eight bits
        with torch.autocast(y.device.type, enabled=False) if exact else nullcontext():
            y = self.out(functional.relu(self.hidden(y.float() if exact else y))).float()
        own = self.block * self.sample_law.width
        return y[..., :own].unflatten(-1, (self.block, -1)), y[..., own:]

    def steps(self, u: Float[Tensor, "B T"]) -> Float[Tensor, "N B P"]:
        """Samples by steps of a block."""
        return u.unflatten(1, (-1, self.block)).transpose(0, 1)

    def embed(self, past: Float[Tensor, "N B P"]) -> Float[Tensor, "N B R"]:
        """The samples of the last step as the first layer sees them."""
        law = self.sample_law
        if not isinstance(law, MuLaw):
            return functional.linear(past, self.front[:, 0].T, self.front_bias)
        codes = law.encode(past)
        return sum(functional.embedding(codes[..., p], self.front[p]) for p in range(self.block)) + self.front_bias

    def linked(self, u: Float[Tensor, "N B P"], links: Float[Tensor, "N B K"]) -> Float[Tensor, "N B P"]:
        """What the earlier samples of a step say about each: sum over q < p of A[p, q] u[q]."""
        if not self.links:
            return torch.zeros_like(u)
        row, column = torch.tril_indices(self.block, self.block, -1, device=u.device)
        matrix = links.new_zeros(*links.shape[:-1], self.block, self.block)
        matrix[..., row, column] = links
        with torch.autocast(u.device.type, enabled=False):
            return (matrix @ u.unsqueeze(-1)).squeeze(-1)

    def nats(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
        """Negative log density of every sample, in nats, over x in [-1, 1].

        16-bit recordings are dequantised by uniform noise of one step, drawn from torch's generator.
        """
        wav, mel = batch["wav"], batch.get("mel")
        if mel is None and (self.cond or self.order):
            raise WavegenError('got a batch without "mel", expected one for a WaveNet with cond or order; add it')
        if self.law != "mulaw":
            wav = wav + (torch.rand_like(wav) - 0.5) * STEP
        u, log_slope = (wav, torch.zeros_like(wav)) if mel is None else excitation(wav, mel, self.mel, self.order)
        known = torch.arange(u.shape[1], device=u.device) >= self.order  # the rest was predicted from before the start
        params, links = self.parameters_of(u * known, mel, batch.get("style"))
        blocks = self.steps(u)
        log_prob = self.sample_law.log_prob(params, blocks - self.linked(blocks, links))
        return -(log_prob.transpose(0, 1).flatten(1) + log_slope)

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nats per sample, of all but the first frame, which serves as history; bits are per 16-bit sample."""
        return scalars(self.nats(batch)[:, self.mel.hop :].mean())

    @property
    def margin(self) -> int:
        """Frames on either side that the conditioning of a frame depends on."""
        return max(self.conditioning.margin if self.conditioning else 0, 1 if self.order else 0)

    def synthesize(
        self,
        mel: Float[Tensor, "B M F"],
        style: Float[Tensor, "B D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        folds: int = 1,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Sound of `F * hop` samples in [-1, 1]; items of a batch are shared out among threads.

        With `folds > 1`, one utterance is cut at quiet frames into so many streams, made together and cross-faded.
        `progress` is called with the number of samples made since its last call.

        Raises:
            WavegenError: a mel or style of the wrong shape, NaN, a temperature below 0, or folds of a batch.
        """
        self.check_input(mel, style)
        if min(folds, threads) < 1:
            raise WavegenError(f"got {folds} folds and {threads} threads, expected at least 1 of each")
        draw, mel = self.draw(seed, temperature), mel.detach().cpu().float()
        if folds == 1:
            return incremental.streams(self, mel, style, draw, threads=threads, progress=progress)
        if len(mel) > 1:
            raise WavegenError(f"got {folds} folds of a batch of {len(mel)}, expected one utterance; drop the folds")
        warm = self.margin + -(-self.receptive_field // self.mel.hop)
        segments, parts = incremental.fold(mel, min(folds, mel.shape[-1]), warm)
        styles = None if style is None else style.expand(len(segments), -1)
        wavs = incremental.streams(self, segments, styles, draw, threads=threads, progress=progress)
        return incremental.join(wavs, parts, self.mel.hop)

    def pieces(
        self,
        mels: Iterable[Float[Tensor, "B M _F"]],
        style: Float[Tensor, "B D"] | None,
        draw: Draw,
        *,
        threads: int = 1,
    ) -> Iterator[Float[Tensor, "B _T"]]:
        return incremental.pieces(self, mels, style, draw)

    def sample(
        self,
        samples: int,
        style: Float[Tensor, "B D"] | None = None,
        *,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> Float[Tensor, "B T"]:
        """Sound out of nothing, `samples` rounded up to whole frames, from a model without mel conditioning.

        Raises:
            WavegenError: the model needs a mel.
        """
        if self.cond or self.order or self.polish:
            raise WavegenError("got a WaveNet that needs a mel, expected cond, order and polish 0; use synthesize")
        frames = -(-samples // self.mel.hop)
        nothing = torch.zeros(1 if style is None else len(style), self.mel.bins, frames)
        return self.synthesize(nothing, style, seed=seed, temperature=temperature)
