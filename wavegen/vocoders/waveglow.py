"""WaveGlow: sound from noise in one pass, through a flow conditioned on the mel (Prenger et al., 2019).

Groups of `group` samples become channels; `flows` times, an invertible 1x1 convolution mixes them and an affine
coupling lets one half change the other (Kingma and Dhariwal, "Glow", 2018), until what is left is white noise.

The excitation of linear prediction may take the place of sound (`order > 0`), as in `WaveNet`: the envelope and level
of speech are read off the mel and need not be learned, and the likelihood stays exact.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from wavegen.audio.lpc import excitation
from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.flows.base import Beyond, Chain, Transform, gaussian
from wavegen.flows.channels import Invertible1x1, Permutation, Squeeze
from wavegen.flows.coupling import Coupling, halves
from wavegen.nn import GatedNet
from wavegen.vocoders.base import STEP, Vocoder, scalars
from wavegen.vocoders.conditioning import Smooth, Transposed
from wavegen.vocoders.pieces import Draw, Window, finished, windows, workers

__all__ = ["WaveGlow"]

FLOWED = (16, 32)  # frames of the first chunks of the flow: a stream speaks soon, and later wastes little on margins
POLISHED = (8, 16, 32, 64, 128)  # frames of the chunks that are polished, which need eight more
OWN: dict[str, Any] = {
    "early_every": 0, "kernel": 3, "upsampler": "smooth", "context": (5, 3), "bound": 3.0, "order": 32,
    "mel": MelSpec.named("hifigan"), "mel_mean": -5.0, "mel_std": 3.0,
}  # fmt: skip
SQUEEZE: dict[str, Any] = {
    "early_every": 2, "early_size": 16, "layers": 8, "dilation": 1, "separable": True, "upsampler": "smooth",
    "context": (1,), "bound": 3.0, "mel": MelSpec.named("tacotron2"),
}  # fmt: skip


@dataclass(eq=False, repr=False)
class WaveGlow(Vocoder):
    """A Glow over groups of samples, conditioned on a mel and a style.

    Sizes: `group` samples a step; `flows` of a coupling each, whose network has `layers` of `channels`, `kernel` taps
    and dilations that grow by the factor `dilation`, its convolutions depthwise and then pointwise if `separable`.
    Before every `early_every`-th flow (0: never) `early_size` channels leave. If `alternating`, the halves swap places
    after every other flow, as in NVIDIA's oldest models. Log-scales stay within `bound`, or are
    free without one. The mel enters as `(mel - mel_mean) / mel_std`, through "transposed" (the paper's) or "smooth"
    upsampling to `cond` channels, which follow convolutions of widths `context`; `style` is the size of the style
    vector, 0 for none. `polish` and `temperature` as in `WaveNet`.
    """

    mel: MelSpec = MelSpec.named("tacotron2")  # noqa: RUF009 - frozen
    group: int = 8
    flows: int = 12
    early_every: int = 4
    early_size: int = 2
    alternating: bool = False
    layers: int = 8
    channels: int = 256
    kernel: int = 3
    dilation: int = 2
    separable: bool = False
    bound: float | None = None
    upsampler: Literal["transposed", "smooth"] = "transposed"
    cond: int = 640
    context: tuple[int, ...] = ()
    mel_mean: float = 0.0
    mel_std: float = 1.0
    style: int = 0
    order: int = 0
    polish: int = 0
    temperature: float = 0.6

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {
            **OWN, "group": 16, "flows": 3, "early_every": 2, "early_size": 4, "layers": 2, "channels": 16, "cond": 16,
            "order": 16, "polish": 2,
        },
        "edge": {
            **OWN, "group": 32, "flows": 8, "layers": 4, "channels": 64, "cond": 96, "polish": 32, "temperature": 0.6,
        },
        "nvidia-256": {},
        "nvidia-512": {"channels": 512},
        "squeezewave-128l": {**SQUEEZE, "group": 128, "channels": 256, "cond": 256},
        "squeezewave-128s": {**SQUEEZE, "group": 128, "channels": 128, "cond": 128},
        "squeezewave-64l": {**SQUEEZE, "group": 256, "channels": 256, "cond": 256},
        "squeezewave-64s": {**SQUEEZE, "group": 256, "channels": 128, "cond": 128},
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__init__()
        self.check_fields(self._conditions())
        hop, bins = self.mel.hop, self.mel.bins
        if self.upsampler == "transposed":
            self.upsample = Transposed(bins, hop=hop, group=self.group)
        else:
            self.upsample = Smooth(bins, self.cond, steps=hop // self.group, context=self.context)
        self.style_layer = nn.Linear(self.style, self.cond, bias=False) if self.style else None
        if self.style_layer is not None:  # a voice taken up from one without styles starts where that was
            nn.init.zeros_(self.style_layer.weight)
        self.squeeze = Squeeze(self.group)
        self.flow = self._chain(0, self.group)

    def _chain(self, first: int, channels: int) -> Transform:
        """The flows from number `first` on, over so many channels."""
        steps: list[Transform] = []
        for flow in range(first, self.flows):
            if steps and self.early_every and flow % self.early_every == 0:
                k = self.early_size
                return Chain(*steps, Beyond(k, self._chain(flow, channels - k)))
            keep = halves(channels)
            net = GatedNet(
                keep, channels, self.channels, dilations=self.dilations, kernel=self.kernel, cond=self.cond,
                separable=self.separable,
            )  # fmt: skip
            steps += [Invertible1x1(channels), Coupling(keep, net, bound=self.bound)]
            if self.alternating and flow % 2:
                steps.append(Permutation([*range(keep, channels), *range(keep)]))
        return Chain(*steps)

    def _conditions(self) -> Iterator[tuple[str, str, bool]]:
        """Fields, what is expected of them, and whether it holds."""
        hop, transposed = self.mel.hop, self.upsampler == "transposed"
        sizes = (self.group, self.flows, self.layers, self.channels, self.cond, self.dilation)
        yield "group flows layers channels cond dilation", "positive numbers", min(sizes) > 0
        yield "group", f"a divisor of the hop, {hop}", hop % self.group == 0
        counts = (self.early_every, self.early_size, self.style, self.order, self.polish)
        yield "early_every early_size style order polish", "0 or more", min(counts) >= 0
        yield "group early_every early_size", "channels left for the last flow", self.left > 0
        yield "kernel", "an odd number of taps", self.kernel > 0 and self.kernel % 2 == 1
        yield "mel_std", "a positive number", self.mel_std > 0
        yield "bound", "a positive number, or None", self.bound is None or self.bound > 0
        yield "upsampler", "transposed or smooth", self.upsampler in ("transposed", "smooth")
        bands = self.mel.bins * self.group
        yield "cond upsampler", f"bins * group, {bands}, with the transposed one", not transposed or self.cond == bands
        odd = all(width > 0 and width % 2 == 1 for width in self.context)
        yield (
            "context upsampler",
            "odd widths with the smooth one, none with the other",
            odd and transposed != bool(self.context),
        )
        aligned = self.mel.centring == "middle" and hop % 4 == 0
        whole = "order and polish 0, or a mel with centring 'middle' and a hop of whole quarters"
        yield "order polish mel", whole, aligned or not (self.order or self.polish)

    @property
    def left(self) -> int:
        """Channels of the last flow."""
        leavings = len(range(self.early_every, self.flows, self.early_every)) if self.early_every else 0
        return self.group - leavings * self.early_size

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(self.dilation**layer for layer in range(self.layers))

    @property
    def margin(self) -> int:
        """Frames on either side that a frame of sound depends on."""
        steps = self.flows * (self.kernel // 2) * sum(self.dilations)
        return max(-(-steps * self.group // self.mel.hop) + self.upsample.margin, 1)

    def condition(
        self, mel: Float[Tensor, "B M F"], style: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B C N"]:
        """The conditioning channels of every step."""
        self.check_style(style, len(mel))
        steps = self.upsample((mel - self.mel_mean) / self.mel_std)
        if style is not None and self.style_layer is not None:
            steps = steps + self.style_layer(style)
        return steps.permute(1, 2, 0)

    def encode(
        self,
        wav: Float[Tensor, "B T"],
        mel: Float[Tensor, "B M F"],
        style: Float[Tensor, "B D"] | None = None,
        *,
        first: int = 0,
    ) -> tuple[Float[Tensor, "B G N"], Float[Tensor, " B"]]:
        """Sound (or its excitation), from frame `first` on, to noise, and the log-determinant of that for each item.

        Raises:
            WavegenError: not `hop` samples for each frame, no frame left, or a style of another shape.
        """
        hop, frames = self.mel.hop, mel.shape[-1]
        if wav.shape[1] != frames * hop or frames <= first:
            raise WavegenError(
                f"got {wav.shape[1]} samples and {frames} frames, expected {hop} samples for each of more than {first} "
                "frames; cut them to that"
            )
        groups, _ = self.squeeze(wav[:, first * hop :].unsqueeze(1))
        return self.flow(groups, self.condition(mel, style)[..., first * hop // self.group :])

    def decode(
        self, z: Float[Tensor, "B G N"], mel: Float[Tensor, "B M F"], style: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Noise to sound, or to its excitation."""
        return self.squeeze.inverse(self.flow.inverse(z, self.condition(mel, style))[0])[0][:, 0]

    def nats(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " B"]:
        """Mean negative log density of each item's samples but for the first frame's, in nats, over x in [-1, 1].

        16-bit recordings are dequantised by uniform noise of one step, drawn from torch's generator.
        """
        wav, mel, hop = batch["wav"], batch.get("mel"), self.mel.hop
        if mel is None:
            raise WavegenError('got a batch without "mel", expected one for a WaveGlow; add it')
        u, log_slope = excitation(wav + (torch.rand_like(wav) - 0.5) * STEP, mel, self.mel, self.order)
        z, logdet = self.encode(u, mel, batch.get("style"), first=1)  # frame 0 was predicted from before the start
        return -((gaussian(z) + logdet) / (wav.shape[1] - hop) + log_slope[:, hop:].mean(1))

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nats per sample; bits are per 16-bit sample."""
        return scalars(self.nats(batch).mean())

    def pieces(
        self,
        mels: Iterable[Float[Tensor, "B M _F"]],
        style: Float[Tensor, "B D"] | None,
        draw: Draw,
        *,
        threads: int = 1,
    ) -> Iterator[Float[Tensor, "B _T"]]:
        sizes = (*FLOWED, 6 * self.margin)

        def flowed(job: tuple[Window, Tensor]) -> tuple[Tensor, Window]:
            window, noise = job
            items = [
                self._decoded(noise, window.mel[b : b + 1], None if style is None else style[b : b + 1], draw)
                for b in range(len(window.mel))
            ]
            return torch.cat(items)[:, window.own(self.mel.hop)], window

        with workers(threads) as across:

            def chunks(mels: Iterable[Tensor]) -> Iterator[tuple[Tensor, Window]]:
                return across(flowed, self._noisy(windows(mels, self.margin, sizes), draw))

            yield from finished(
                chunks, mels, self.mel, order=self.order, polish=self.polish, sizes=POLISHED, across=across
            )

    def _noisy(self, chunks: Iterator[Window], draw: Draw) -> Iterator[tuple[Window, Float[Tensor, "1 G N"]]]:
        """Windows with their noise, which is a matter of the place in time alone."""
        generator, rate = Generator().manual_seed(draw.seed), self.mel.hop // self.group
        held, first, now = torch.zeros(1, self.group, 0), 0, 0
        for window in chunks:
            start, frames = now - window.before, window.mel.shape[-1]
            held, first, now = held[..., (start - first) * rate :], start, now + window.count
            while held.shape[-1] < frames * rate:
                held = torch.cat([held, torch.randn(1, self.group, 8 * rate, generator=generator)], dim=-1)
            yield window, draw.temperature * held[..., : frames * rate]

    @torch.no_grad()
    def _decoded(
        self, noise: Float[Tensor, "1 G N"], mel: Float[Tensor, "1 M F"], style: Float[Tensor, "1 D"] | None, draw: Draw
    ) -> Float[Tensor, "1 T"]:
        """`decode` where the model is, in bfloat16 where that costs no more than its last bits."""
        like = next(self.parameters())
        style = None if style is None else style.to(like)
        rounded = draw.bfloat16 and like.dtype == torch.float32
        with torch.autocast(like.device.type, torch.bfloat16, enabled=rounded):
            return self.decode(noise.to(like), mel.to(like), style).float().cpu()
