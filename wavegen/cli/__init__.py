"""The `wavegen` command: one short function a verb, each calling the public API."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError

from wavegen.cli import corpora, latents, models, sound, walks
from wavegen.errors import WavegenError

__all__ = ["app", "main", "run"]

app = App(
    name="wavegen",
    help="Speech from likelihood models: train vocoders and latents, turn mels into sound, measure it all.",
)
for verb in (sound.vocode, sound.mel, models.evaluate, models.export, models.info, models.bench):
    app.command(verb)
app.command(models.import_, name="import")

data = App(name="data", help="Fetch and audit recordings.")
for verb in (corpora.download, corpora.check):
    data.command(verb)
app.command(data)

space = App(name="latents", help="Encode recordings as latents, walk between them and hear it, measure what they hold.")
for verb in (latents.encode, latents.grid, latents.cluster, latents.probe, latents.measure):
    space.command(verb)
for verb in (walks.interpolate, walks.traverse):
    space.command(verb)
space.command(latents.map_, name="map")
app.command(space)


def _started(app: App) -> Any:
    """Run a command line; what the user can mend is one sentence and exit code 2."""
    name = Path(sys.argv[0]).name
    try:
        return app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (WavegenError, CycloptsError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone; there is nobody to tell
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def run(main: Callable[..., Any]) -> None:
    """Call a recipe's `main` with the command line, its keyword arguments being the options."""
    recipe = App(name=Path(sys.argv[0]).name, help_format="plaintext")
    recipe.default(main)
    _started(recipe)


def main() -> None:
    """The entry point of `wavegen`."""
    _started(app)
