"""Exit statuses of commands."""

FINISHED, FAILED, WRONG_INPUT = 0, 1, 2
STOPPED = 75
"""Saved on request (EX_TEMPFAIL): the same command, run again, goes on."""
