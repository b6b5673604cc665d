"""What ships with the package: vocoders in files beside this one, latents in the folder `latents`."""

from pathlib import Path
from typing import TypeVar

from wavegen.errors import WavegenError
from wavegen.latents.base import Latent
from wavegen.model import Model
from wavegen.vocoders.base import Vocoder

__all__ = ["DEFAULT", "LATENT", "load_latent", "load_voice", "names"]

DEFAULT = "kathleen-wavenet"
LATENT = "speakers"
HERE = Path(__file__).parent
Kind = TypeVar("Kind", bound=Model)


def names() -> list[str]:
    """The names that `load_voice` knows."""
    return _names(HERE)


def load_voice(voice: str | Path = DEFAULT) -> Vocoder:
    """A vocoder by the name of a shipped voice or by the path of a file.

    Raises:
        WavegenError: neither a name nor a file, or a file of something else.
    """
    return _load(voice, Vocoder, HERE)


def load_latent(latent: str | Path = LATENT) -> Latent:
    """A latent-variable model by the name of a shipped one or by the path of a file. Errors as `load_voice`."""
    return _load(latent, Latent, HERE / "latents")


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.safetensors"))


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name too long to be one
        return False


def _load(wanted: str | Path, kind: type[Kind], folder: Path) -> Kind:
    noun = kind.__name__.lower()
    if str(wanted) in _names(folder):
        return kind.load(folder / f"{wanted}.safetensors")
    if not _is_file(wanted):
        shipped = f"a shipped {noun}: {', '.join(_names(folder)) or 'there is none yet, train one by a recipe'}"
        raise WavegenError(f"got {str(wanted)!r}, expected the file of a {noun} or {shipped}")
    loaded = Model.load(wanted)
    if not isinstance(loaded, kind):
        raise WavegenError(f"{wanted} holds a {type(loaded).__name__}, expected a {noun}; name another file")
    return loaded
