"""What all tests share: shapes checked at run time, one thread for torch, real speech, and discovery of the models.

A test that asks for `model_class`, `vocoder_class`, `latent_class`, `flow_class` or `transform_class` runs once for
every concrete Model, Vocoder, Latent, Flow or Transform of the package, one that asks for `model_class` and `preset`
for every preset of each; a new class is put through them all with no edit.
"""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

import wavegen

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float

# Left out: numba cannot cache a function that the hook has wrapped, and beartype has no `Self` outside its own classes.
LEFT_OUT = ("kernels", "model")
PARTS = [module.name for module in pkgutil.iter_modules(wavegen.__path__)]
jaxtyping.install_import_hook([f"wavegen.{part}" for part in PARTS if part not in LEFT_OUT], "conftest.checked")

# isort: split
import torch  # noqa: E402 - and all that is ours: only what is imported after the hook is checked

from wavegen.flows import Flow, Transform  # noqa: E402
from wavegen.latents import Latent  # noqa: E402
from wavegen.model import Model  # noqa: E402
from wavegen.vocoders.base import Vocoder  # noqa: E402

torch.set_num_threads(1)


def concrete(kind: type) -> list[type]:
    """Every class of the package that is a `kind` and not abstract."""
    names = [module.name for module in pkgutil.walk_packages(wavegen.__path__, "wavegen.")]
    members = [
        value for name in names if "__main__" not in name for value in vars(importlib.import_module(name)).values()
    ]
    kinds = {value for value in members if isinstance(value, type) and issubclass(value, kind)}
    return sorted((value for value in kinds if not inspect.isabstract(value)), key=lambda value: value.__qualname__)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = {
        "model_class": Model,
        "vocoder_class": Vocoder,
        "latent_class": Latent,
        "flow_class": Flow,
        "transform_class": Transform,
    }
    for argument, kind in kinds.items():
        if argument in metafunc.fixturenames:
            found = concrete(kind)
            if "preset" in metafunc.fixturenames:
                pairs = [(value, preset) for value in found for preset in value.presets]
                metafunc.parametrize((argument, "preset"), pairs, ids=[f"{v.__name__}-{p}" for v, p in pairs])
            else:
                metafunc.parametrize(argument, found, ids=[value.__name__ for value in found])


@pytest.fixture
def speech() -> Path:
    """The folder of real speech that WAVEGEN_SPEECH names."""
    if "WAVEGEN_SPEECH" not in os.environ:
        pytest.skip("needs WAVEGEN_SPEECH, a folder of real speech")
    return Path(os.environ["WAVEGEN_SPEECH"])


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes as unchecked as they are outside tests: for tests of what the code itself says of wrong ones."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def lively() -> Callable[..., Any]:
    """Makes a model with weights as if trained: none of the zeros that a fresh one starts with."""

    def build(kind: type, preset: str = "tiny", **changes: Any) -> Any:
        torch.manual_seed(0)
        model = kind.preset(preset, **changes).eval()
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        return model

    return build
