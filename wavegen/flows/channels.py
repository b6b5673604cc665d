"""Maps of channels alone: scale, mix, reorder, and fold time or space into channels."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed, nn
from torch.nn import functional

from wavegen.errors import WavegenError
from wavegen.flows.base import Affine, Cond, Mapped, Transform

__all__ = ["ActNorm", "Invertible1x1", "Permutation", "Squeeze", "flip"]


class ActNorm(Affine):
    """y = x exp(log_scale) + shift, for each channel (Kingma and Dhariwal, "Glow", 2018, section 3.1).

    The first batch in training sets both so that every channel leaves with zero mean and unit variance; that it has
    done so is saved with the weights.

    Raises:
        WavegenError: the first batch comes to one of several processes, which would each set their own.
    """

    initialised: Bool[Tensor, ""]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))

    def coefficients(self, x: Float[Tensor, "B C *S"], cond: Cond) -> tuple[Tensor, Tensor]:
        places = [1] * (x.ndim - 2)
        return self.shift.view(-1, *places).expand_as(x), self.log_scale.view(-1, *places).expand_as(x)

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        if self.training and not self.initialised:
            self._initialise(x.detach().transpose(0, 1).flatten(1))
        return super().forward(x, cond)

    @torch.no_grad()
    def _initialise(self, values: Float[Tensor, "C N"]) -> None:
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            raise WavegenError("got the first batch of an ActNorm in one of several processes, expected it before they "
                               "begin; call the model's `loss` once before `fit`")  # fmt: skip
        std = values.std(1, correction=0)
        if values.shape[1] > 1 and values.isfinite().all():  # otherwise a later batch will do
            std = std.masked_fill(std < 1e-6, 1.0)  # of a channel that is constant
            self.shift.copy_(-values.mean(1) / std)
            self.log_scale.copy_(-std.log())
            self.initialised.fill_(True)


class Invertible1x1(Transform):
    """y = W x at every position, W = P L U with the diagonal of U kept away from zero as sign * exp(log_diagonal).

    The log-determinant is a sum, and no training step can make W singular (Kingma and Dhariwal, "Glow", 2018, eq. 10).
    W starts as a random rotation, or as the matrix given.

    Raises:
        WavegenError: a matrix that is not square, not finite, or singular.
    """

    order: Tensor
    sign: Tensor

    def __init__(self, channels: int, *, matrix: Float[Tensor, "C C"] | None = None) -> None:
        super().__init__()
        rotation: Tensor = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        matrix = rotation if matrix is None else matrix
        if matrix.shape != (channels, channels) or not matrix.isfinite().all():
            raise WavegenError(f"got a 1x1 matrix of shape {tuple(matrix.shape)}, expected {channels} x {channels} of "
                               "finite numbers; check where it comes from")  # fmt: skip
        order, lower, upper = torch.linalg.lu(matrix.double())
        diagonal = upper.diagonal()
        if not torch.linalg.cond(matrix.double()) < 1e7:  # digits of float32; NaN for zeros
            raise WavegenError("got a singular 1x1 matrix, expected one with an inverse; check where it comes from")
        self.register_buffer("order", order.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_diagonal = nn.Parameter(diagonal.abs().log().float())

    @property
    def matrix(self) -> Float[Tensor, "C C"]:
        """W, whose rows are the channels out."""
        one = torch.eye(len(self.sign), device=self.sign.device, dtype=self.sign.dtype)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return self.order @ (self.lower.tril(-1) + one) @ upper

    @property
    def inverse_matrix(self) -> Float[Tensor, "C C"]:
        """The inverse of W."""
        return torch.linalg.inv(self.matrix)

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        with torch.autocast(x.device.type, enabled=False):  # the signal itself keeps all its digits
            return mixed(x, self.matrix), self._logdet(x)

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        with torch.autocast(y.device.type, enabled=False):
            return mixed(y, self.inverse_matrix), -self._logdet(y)

    def _logdet(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, " B"]:
        return (self.log_diagonal.sum() * math.prod(x.shape[2:])).expand(len(x))


def mixed(x: Float[Tensor, "B C *S"], matrix: Float[Tensor, "D C"]) -> Float[Tensor, "B D *S"]:
    """A matrix applied to the channels at every position."""
    return functional.linear(x.movedim(1, -1), matrix).movedim(-1, 1)


class Permutation(Transform):
    """Channels in another order: channel i out is channel `order[i]` in.

    Raises:
        WavegenError: not an order of all channels.
    """

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise WavegenError(f"got the order {order}, expected each channel of {len(order)} once; correct it")
        self.order = order
        self.back = sorted(range(len(order)), key=order.__getitem__)

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        return y[:, self.back], y.new_zeros(len(y))


def flip(channels: int) -> Permutation:
    """All channels the other way round."""
    return Permutation(list(reversed(range(channels))))


class Squeeze(Transform):
    """Neighbouring positions become channels: (B, C, T) to (B, C * factor, T / factor), images in both directions.

    Channel c * factor + i of a squeezed sequence is sample i of each group of channel c.

    Raises:
        WavegenError: positions to squeeze, or channels to unfold, that are no multiple of the factor.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        if any(size % self.factor for size in x.shape[2:]):
            raise WavegenError(f"got {tuple(x.shape[2:])} positions, expected multiples of {self.factor}; cut them")
        for axis in range(2, x.ndim):
            x = x.unflatten(axis, (-1, self.factor)).movedim(axis + 1, 2).flatten(1, 2)
        return x, x.new_zeros(len(x))

    def inverse(self, y: Float[Tensor, "B C *S"], cond: Cond = None) -> Mapped:
        if y.shape[1] % self.factor ** (y.ndim - 2):
            raise WavegenError(f"got {y.shape[1]} channels to unfold by {self.factor}, expected a multiple; squeeze")
        for axis in reversed(range(2, y.ndim)):
            y = y.unflatten(1, (-1, self.factor)).movedim(2, axis + 1).flatten(axis, axis + 1)
        return y, y.new_zeros(len(y))
