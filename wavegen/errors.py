"""The one error a caller is meant to read, also where an optional package is missing."""

import importlib
from types import ModuleType

__all__ = ["WavegenError", "require"]


class WavegenError(ValueError):
    """Something the caller can mend; the message says what was got, what was expected and what to do.

    The command line prints it as one sentence and exits with code 2.
    """


def require(package: str) -> ModuleType:
    """Import a package of the extra `eval`, or say how to install it.

    Raises:
        WavegenError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WavegenError(f'the package {package} is not installed; run `pip install "wavegen[eval]"`') from error
