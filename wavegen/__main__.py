"""`python -m wavegen` is the `wavegen` command."""

from wavegen.cli import main

main()
