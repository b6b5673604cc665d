"""Flows as models of points (D,), sequences (C, T) and images (C, H, W): a family is the step that it repeats."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from wavegen.errors import WavegenError
from wavegen.flows.autoregressive import Autoregressive
from wavegen.flows.base import Beyond, Chain, Inverse, Transform, gaussian
from wavegen.flows.channels import ActNorm, Squeeze, flip
from wavegen.flows.coupling import MaskedCoupling, checkerboard, glow_step, halves
from wavegen.model import Model
from wavegen.nn import MLP, ConvNet

__all__ = ["IAF", "MADE", "MAF", "NICE", "Flow", "Glow", "RealNVP"]

IMAGES: dict[str, Any] = {"shape": (1, 8, 8), "levels": 1, "hidden": (64, 64)}


@dataclass(eq=False, repr=False)
class Flow(Model):
    """A density of items of one shape, given by a chain of steps from them to the standard normal.

    `shape` is that of an item, channels first; `cond` the numbers in its condition, 0 for none; `hidden` the sizes of
    the layers of every network, whose log-scales stay within `bound` (with 3 in each of many steps, one point far out
    can upset the training). After `levels` times squeezing two positions (of images 2 x 2) into channels and running
    `steps` steps, half of the channels leave (Dinh et al., "Real NVP", 2017, section 3.6).

    Raises:
        WavegenError: sizes that do not fit each other.
    """

    shape: tuple[int, ...] = (2,)
    cond: int = 0
    steps: int = 8
    hidden: tuple[int, ...] = (64, 64)
    levels: int = 0
    bound: float = 1.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"hidden": (48, 48)},
        "points": {},
        "digits": {"shape": (64,), "hidden": (128, 128)},
    }

    def __post_init__(self) -> None:
        super().__init__()
        sizes = (*self.shape, *self.hidden, self.steps, self.cond + 1, self.levels + 1, self.bound)
        halved = not self.levels or all(size % 2**self.levels == 0 for size in self.shape[1:] or (1,))
        if not (self.shape and self.hidden and min(sizes) > 0 and halved):
            raise WavegenError(f"got {self.config}, expected positive sizes and positions that halve `levels` times")
        self.transform = self._scale(self.shape, self.levels)

    def _scale(self, shape: tuple[int, ...], levels: int) -> Transform:
        """The steps on items of a shape, which the chain leaves as it was."""
        if not levels:
            return Chain(*(self.step(shape, index) for index in range(self.steps)))
        space = tuple(size // 2 for size in shape[1:])
        half = shape[0] * 2 ** len(space) // 2
        steps = self._scale((2 * half, *space), 0)
        return Chain(Squeeze(2), steps, Beyond(half, self._scale((half, *space), levels - 1)), Inverse(Squeeze(2)))

    @abstractmethod
    def step(self, shape: tuple[int, ...], index: int) -> Transform:
        """Step number `index` of the chain, on items of a shape."""

    def net(self, shape: tuple[int, ...], inputs: int, outputs: int) -> MLP | ConvNet:
        """A network over items of a shape, from so many channels to so many."""
        sizes: dict[str, Any] = {"hidden": self.hidden, "cond": self.cond}
        return ConvNet(inputs, outputs, spaces=len(shape) - 1, **sizes) if shape[1:] else MLP(inputs, outputs, **sizes)

    def log_prob(self, x: Float[Tensor, "B ..."], cond: Float[Tensor, "B D"] | None = None) -> Float[Tensor, " B"]:
        """Log density of each item in nats.

        Raises:
            WavegenError: items or conditions of another shape than the model's.
        """
        self._check(tuple(x.shape[1:]), len(x), cond)
        z, logdet = self.transform(x, cond)
        return gaussian(z) + logdet

    @torch.no_grad()
    def sample(
        self, n: int, cond: Float[Tensor, "n D"] | None = None, *, temperature: float = 1.0, seed: int | None = None
    ) -> Float[Tensor, "n ..."]:
        """So many draws, one for each condition; a temperature below 1 stays nearer to what is typical.

        Without a seed the noise is from torch's generator.

        Raises:
            WavegenError: conditions of another shape than the model's.
        """
        self._check(tuple(self.shape), n, cond)
        generator = None if seed is None else Generator().manual_seed(seed)
        noise = torch.randn(n, *self.shape, generator=generator).to(next(self.parameters()))
        return self.transform.inverse(temperature * noise, cond)[0]

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean negative log density of the items "x" (given "cond"), in nats per item."""
        nats = -self.log_prob(batch["x"], batch.get("cond")).mean()
        return {"loss": nats, "nats": nats.detach()}

    def _check(self, shape: tuple[int, ...], n: int, cond: Tensor | None) -> None:
        if shape != tuple(self.shape):
            raise WavegenError(f"got items of shape {shape}, expected {tuple(self.shape)}; reshape them")
        given = (n, 0) if cond is None else tuple(cond.shape)
        if given != (n, self.cond):
            raise WavegenError(f"got a condition of shape {given}, expected {(n, self.cond)}; give one for each item")


@dataclass(eq=False, repr=False)
class RealNVP(Flow):
    """Affine couplings with checkerboard masks and masks of channels in turn (Dinh et al., 2017)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {**Flow.presets, "digits": IMAGES}
    scale: ClassVar[bool] = True

    def step(self, shape: tuple[int, ...], index: int) -> Transform:
        channels, space = shape[0], shape[1:]
        mask = checkerboard(shape if index % 4 < 2 else (channels, *[1] * len(space)), odd=index % 2 == 1)
        net = self.net(shape, channels, channels * (1 + self.scale))
        return Chain(ActNorm(channels), MaskedCoupling(mask, net, scale=self.scale, bound=self.bound))


@dataclass(eq=False, repr=False)
class NICE(RealNVP):
    """Additive couplings, with one scale for each channel before every one of them (Dinh et al., 2015)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = Flow.presets
    scale: ClassVar[bool] = False


@dataclass(eq=False, repr=False)
class Glow(Flow):
    """Glow steps, on an even number of channels (Kingma and Dhariwal, 2018)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {**Flow.presets, "digits": IMAGES}

    def step(self, shape: tuple[int, ...], index: int) -> Transform:
        return glow_step(shape[0], self.net(shape, halves(shape[0]), shape[0]), bound=self.bound)


@dataclass(eq=False, repr=False)
class MAF(Flow):
    """Autoregressive maps of points, in both orders in turn (Papamakarios et al., 2017)."""

    turned: ClassVar[bool] = False

    def step(self, shape: tuple[int, ...], index: int) -> Transform:
        if shape[1:]:
            raise WavegenError(f"got items of shape {shape}, expected points (D,); flatten them")
        (size,) = shape
        net = MLP(size, 2 * size, hidden=self.hidden, cond=self.cond, causal=True)
        step = Autoregressive(net, bound=self.bound)
        return Chain(ActNorm(size), Inverse(step) if self.turned else step, flip(size))


@dataclass(eq=False, repr=False)
class MADE(MAF):
    """A Gaussian for every coordinate given those before it: a single autoregressive map (Germain et al., 2015)."""

    steps: int = 1
    bound: float = 3.0


@dataclass(eq=False, repr=False)
class IAF(MAF):
    """MAF the other way round (Kingma et al., 2016): it samples at once; a density takes as many passes as numbers."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        **Flow.presets,
        "digits": {"shape": (64,), "steps": 2, "hidden": (128,)},  # for the sake of its many passes
    }
    turned: ClassVar[bool] = True
