"""Checkpoints of a run: one safetensors file of every tensor and a JSON header of everything else, never half of it."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wavegen.atomic import write_aside
from wavegen.errors import WavegenError

__all__ = ["newest_checkpoint", "read_checkpoint", "write_checkpoint"]

KEY = "wavegen-checkpoint"
FIELDS = {"class": dict, "config": dict, "settings": dict, "progress": dict, "scaler": dict, "version": str}


def write_checkpoint(
    folder: Path, step: int, *, tensors: Mapping[str, Tensor], header: Mapping[str, Any], keep: int = 2
) -> None:
    """Write `folder/checkpoint-STEP.safetensors` atomically, then remove all but the `keep` newest up to this step.

    Raises:
        WavegenError: the folder cannot be written or the disk is full; what was there before stays.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_aside(folder / f"checkpoint-{step:09d}.safetensors") as aside:
        save_file(stored, aside, metadata={KEY: json.dumps(header)})
    # a later one can only be damaged, or the run would have started from it: that is for the user to look at
    past = [path for path in _checkpoints(folder) if _step(path) <= step]
    for path in past[keep:]:
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a checkpoint.

    Raises:
        WavegenError: no such file, truncated, or not a checkpoint of this package.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[KEY])
            if not all(isinstance(header[name], kind) for name, kind in FIELDS.items()):
                raise KeyError("header")
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, header
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise WavegenError(
            f"{path} is not a complete checkpoint ({type(error).__name__}), expected one written by fit; "
            "remove it, or copy it again"
        ) from error


def newest_checkpoint(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest complete checkpoint in `folder`, or None; a damaged one is passed by with a warning.

    Raises:
        WavegenError: there are checkpoints and all are damaged.
    """
    damaged = None
    for path in _checkpoints(Path(folder)):
        try:
            return read_checkpoint(path)
        except WavegenError as error:
            warnings.warn(f"{error}; looking for an older one", stacklevel=2)
            damaged = error
    if damaged:
        raise WavegenError(
            f"no checkpoint in {folder} is complete, expected at least one; move them away to start from the beginning"
        ) from damaged
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder by name, newest first."""
    found = [path for path in folder.glob("checkpoint-*.safetensors") if re.fullmatch(r"checkpoint-\d+", path.stem)]
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))
