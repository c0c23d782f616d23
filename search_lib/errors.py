"""The one error type that command lines show without a traceback."""


class InputError(ValueError):
    """The user's input is at fault; the message names the flag, file, line or row."""
