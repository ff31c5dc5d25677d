"""Errors a user can cause and mend."""


class InputError(ValueError):
    """Something the user gave is wrong: the message names it and says how to mend it.

    The command line prints the message without a traceback and exits with status 2.
    """
