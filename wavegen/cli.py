"""The `wavegen` command."""

import sys
from collections.abc import Callable
from typing import Any

from cyclopts import App

from wavegen.errors import WavegenError

__all__ = ["main", "run"]

app = App(name="wavegen", help="Speech from likelihood models: train a vocoder, turn mels into sound, measure both.")


def _started(app: App) -> Any:
    """Run a command line; what the user can mend is one sentence and exit code 2."""
    try:
        return app()
    except WavegenError as error:
        print(f"{app.name[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{app.name[0]}: interrupted", file=sys.stderr)
        sys.exit(130)


def run(main: Callable[..., Any]) -> None:
    """Call a recipe's `main` with the command line, its keyword arguments being the options."""
    recipe = App(name=sys.argv[0], help_format="plaintext")
    recipe.default(main)
    _started(recipe)


def main() -> None:
    """The entry point of `wavegen`."""
    _started(app)
