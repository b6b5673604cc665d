"""The one error a caller is meant to read."""


class WavegenError(ValueError):
    """Something the caller can mend; the message says what was got, what was expected and what to do.

    The command line prints it as one sentence and exits with code 2.
    """
