"""The weights in what a checkpoint holds, by name, and taking them one by one."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wavegen.errors import WavegenError
from wavegen.interop.pickles import Record

__all__ = ["Weights"]

LONGEST = 500  # characters in the name of a weight
HOLDERS = ("state_dict", "model")  # under which checkpoints keep the weights beside the optimiser
NORMS = {"weight_g": "weight_v", "parametrizations.weight.original0": "parametrizations.weight.original1"}


class Weights:
    """Named weights, weight norm folded in, to be taken until none is left.

    `tree` is what `read_tensors` gave: a state dict or a module, by itself or in a dict beside an optimiser.

    Raises:
        WavegenError: no weights in it.
    """

    def __init__(self, tree: Any) -> None:
        for holder in HOLDERS:
            tree = tree[holder] if isinstance(tree, dict) and holder in tree else tree
        self.of = tree.name if isinstance(tree, Record) else ""  # the class they are of, where the file says so
        named = dict(_tensors(tree)) if isinstance(tree, Record) else tree
        if isinstance(named, dict):
            named = {
                name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, Tensor)
            }
        if not isinstance(named, dict) or not named:
            raise WavegenError(f"got a {type(tree).__name__} without named weights, expected a state dict or a module")
        if all(name.startswith("module.") for name in named):  # of a model that was trained on several GPUs
            named = {name.removeprefix("module."): value for name, value in named.items()}
        self.left = _without_norm(named)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def count(self, name: str) -> int:
        """How many modules a list of modules has, whose weights are `name.0.(...)` and so on.

        Raises:
            WavegenError: their numbers have gaps.
        """
        rest = (key.removeprefix(f"{name}.").split(".")[0] for key in self.left if key.startswith(f"{name}."))
        numbers = set(rest)
        if numbers != set(map(str, range(len(numbers)))):
            raise WavegenError(f"got {name} of the numbers {sorted(numbers)}, expected 0 and up without gaps")
        return len(numbers)

    def take(self, name: str, *shape: int | None) -> Float[Tensor, "..."]:
        """The weight of that name, in float32; None in its shape stands for any size.

        Raises:
            WavegenError: none of that name, another shape, or values that are not finite numbers.
        """
        value = self.left.pop(name, None)
        if value is None:
            raise WavegenError(f"found no weight {name!r:.100}, which this layout has; it is not complete")
        fits = value.ndim == len(shape) and all(want in (None, n) for want, n in zip(shape, value.shape, strict=False))
        if not fits:
            wanted = ", ".join("any" if want is None else str(want) for want in shape)
            raise WavegenError(
                f"got {name!r:.100} of shape {tuple(value.shape)}, expected ({wanted}); it is another layout"
            )
        if not (value.is_floating_point() and value.isfinite().all()):
            raise WavegenError(f"got {name!r:.100} with values that are not finite numbers; its training has failed")
        return value.float()

    def take_all(self, name: str, count: int, *shape: int | None) -> Float[Tensor, "L ..."]:
        """The weights of `count` layers of one shape, whose names have their number in place of {}; as `take`."""
        taken: list[Tensor] = []
        for number in range(max(count, 1)):
            taken.append(self.take(name.format(number), *shape))
            shape = tuple(taken[0].shape)
        return torch.stack(taken)

    def finish(self) -> None:
        """Refuse what has weights that nobody took.

        Raises:
            WavegenError: naming the first of them.
        """
        if self.left:
            raise WavegenError(f"got {len(self.left)} weights more than its layout has, {min(self.left)!r:.99} first; "
                               "only published layouts fit")  # fmt: skip


def _tensors(module: Any) -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of a module and of those inside it."""
    waiting, seen = [("", module)], set()
    while waiting:
        prefix, module = waiting.pop()
        if len(prefix) > LONGEST:
            raise WavegenError(f"got modules nested deeper than any published one, {prefix:.40}...")
        if not (isinstance(module, Record) and isinstance(module.state, dict)) or id(module) in seen:
            raise WavegenError(
                f"got a {type(module).__name__} at {prefix!r:.100}, expected a module, once, with its state"
            )
        seen.add(id(module))
        for kind in ("_parameters", "_buffers"):
            table = module.state.get(kind) or {}
            if table and id(table) in seen:
                raise WavegenError(
                    f"got the weights of {prefix:.40} twice, expected each module's once; get another file"
                )
            seen |= {id(table)} if table else set()
            for name, value in table.items():
                yield f"{prefix}{name}", value
        for name, inner in module.state.get("_modules", {}).items():
            if inner is not None:
                waiting.append((f"{prefix}{name}.", inner))


def _without_norm(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in place of their magnitudes g and directions v: w = g v / |v|, the norm over the axes of size 1 in g.

    Salimans and Kingma, "Weight normalization" (2016), eq. 2.
    """
    plain = dict(named)
    for name in named:
        for magnitude, direction in NORMS.items():
            other = name.removesuffix(magnitude) + direction
            if name.endswith(f".{magnitude}") and other in plain:
                plain[name.removesuffix(magnitude) + "weight"] = _scaled(plain.pop(name), plain.pop(other), name)
    return plain


def _scaled(g: Tensor, v: Tensor, name: str) -> Tensor:
    axes = [axis for axis, size in enumerate(g.shape) if size == 1]
    if g.ndim != v.ndim or not axes or any(n not in (1, m) for n, m in zip(g.shape, v.shape, strict=True)):
        raise WavegenError(f"got {name!r:.99} of shape {tuple(g.shape)} for a weight of {tuple(v.shape)}, expected "
                           "one magnitude for each output channel; it is not complete")  # fmt: skip
    g, v = g.float(), v.float()
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
