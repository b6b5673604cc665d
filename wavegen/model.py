"""The contract of everything trainable: plain fields, a loss in nats, presets, and a file that says what it holds."""

import dataclasses
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError

__all__ = ["Model", "read_header"]


class Model(nn.Module, ABC):
    """A dataclass of plain fields that is also a torch module.

    A subclass is decorated `@dataclass(eq=False, repr=False)`, calls `super().__init__()` first thing in
    `__post_init__`, and builds its layers there. Its fields are its configuration, its constructor and the header
    of its file.
    """

    presets: ClassVar[dict[str, dict[str, Any]]]

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars of one batch: "loss" is minimised, the rest is logged; likelihoods are in nats."""

    def check_fields(self, conditions: Iterable[tuple[str, str, bool]]) -> None:
        """Refuse fields of which a condition does not hold; each is names, what is expected, and whether it is so.

        Raises:
            WavegenError: naming the fields of the first such condition.
        """
        for names, expected, met in conditions:
            if not met:
                got = ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())
                raise WavegenError(f"got {got}, expected {expected}; change the fields of the {type(self).__name__}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The model with the fields of a named preset, and `changes` on top."""
        if name not in cls.presets:
            raise WavegenError(f"{cls.__name__} has no preset {name!r}; choose one of {', '.join(cls.presets)}")
        return cls(**{**cls.presets[name], **changes})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The model of a `config`, also after JSON has made mappings of nested dataclasses and lists of tuples."""
        hints = get_type_hints(cls)

        def typed(hint: Any, value: Any) -> Any:
            if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
                return hint(**value)  # type: ignore[operator]
            return tuple(value) if isinstance(value, list) else value

        return cls(**{name: typed(hints.get(name), value) for name, value in config.items()})

    @property
    def config(self) -> dict[str, Any]:
        """The fields, ready for JSON; `from_config` builds the same architecture from it."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def save(self, path: Path | str, *, notes: Mapping[str, Any] | None = None) -> None:
        """Write weights and header to a safetensors file, atomically; `notes` is any JSON worth keeping with it."""
        name = f"{type(self).__module__}:{type(self).__qualname__}"
        header = {"class": name, "config": self.config, "notes": dict(notes or {})}
        weights = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        with write_aside(path) as aside:
            save_file(weights, aside, metadata={"wavegen": json.dumps(header)})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a model written by `save`, in evaluation mode. `Model.load` accepts any class of this package.

        Raises:
            WavegenError: no such file, not a wavegen file, truncated, or a model of another class.
        """
        header = read_header(path)
        found = _class_named(header["class"], path)
        if not issubclass(found, cls):
            raise WavegenError(
                f"{path} holds a {found.__name__}, expected a {cls.__name__}; load it with {found.__name__}.load"
            )
        try:
            with Allowance(
                16 * Path(path).stat().st_size + (1 << 26)
            ):  # an initialisation may take several times its size
                model = found.from_config(header["config"])
            with safe_open(path, framework="pt") as file:
                model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
        except Exception as error:  # what a constructor makes of fields that no `save` wrote can be anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WavegenError(
                f"{path} does not fit {found.__name__} of this version ({reason}); save it again with this version"
            ) from error
        return model.eval()


class Allowance(TorchDispatchMode):
    """Within, torch may make tensors of so many bytes in all: a file of a few bytes must not fill the memory."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.room -= made.nbytes
        if self.room < 0:
            raise MemoryError("its header asks for far more than its weights")
        return made


def read_header(path: Path | str) -> dict[str, Any]:
    """The header of a file written by `Model.save`: "class", "config" and "notes"; no weight is read."""
    if not Path(path).is_file():
        raise WavegenError(f"no model file at {path}; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["wavegen"])
        if not all(isinstance(header[key], kind) for key, kind in (("class", str), ("config", dict), ("notes", dict))):
            raise KeyError("header")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WavegenError(
            f"{path} is not a complete wavegen model file ({type(error).__name__}); copy or save it again"
        ) from error
    return header


def _class_named(name: str, path: Path | str) -> type[Model]:
    """The Model subclass `module:Class`, looked for inside this package only."""
    module, _, qualname = name.partition(":")
    found: Any = None
    if module.startswith("wavegen.") and all(part.isidentifier() for part in (*module.split("."), qualname)):
        try:
            found = getattr(importlib.import_module(module), qualname, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise WavegenError(f"{path} names the class {name!r}, expected a model of this package; it was not loaded")
    return found
