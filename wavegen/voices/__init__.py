"""The voices that ship with the package, each a vocoder in a file beside this one."""

from pathlib import Path

from wavegen.errors import WavegenError
from wavegen.model import Model
from wavegen.vocoders.base import Vocoder

__all__ = ["DEFAULT", "load_voice", "names"]

DEFAULT = "kathleen-wavenet"


def names() -> list[str]:
    """The names that `load_voice` knows."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.safetensors"))


def load_voice(voice: str | Path = DEFAULT) -> Vocoder:
    """A vocoder by the name of a shipped voice or by the path of a file.

    Raises:
        WavegenError: neither a name nor a file, or a file of something else.
    """
    if str(voice) in names():
        return Vocoder.load(Path(__file__).parent / f"{voice}.safetensors")
    if not Path(voice).is_file():
        raise WavegenError(f"got {str(voice)!r}, expected a model file or one of {', '.join(names()) or 'no voices'}")
    loaded = Model.load(voice)
    if not isinstance(loaded, Vocoder):
        raise WavegenError(f"{voice} holds a {type(loaded).__name__}, expected a vocoder; name another file")
    return loaded
