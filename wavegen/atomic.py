"""Files that are either the old ones or the whole new ones, never half of either."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from wavegen.errors import WavegenError

__all__ = ["write_aside"]


@contextmanager
def write_aside(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, on failure remove it.

    The temporary file keeps the suffix of `path`, so that writers which choose a format by suffix still do.

    Raises:
        WavegenError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        aside = Path(name)
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp makes private files; a saved voice is not one
        aside.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has its own name for a full disk
        reason = getattr(error, "strerror", None) or error
        raise WavegenError(f"cannot write {path}: {reason}; name a writable folder with free space") from error
    finally:
        if aside is not None:
            with suppress(FileNotFoundError):
                aside.unlink()
