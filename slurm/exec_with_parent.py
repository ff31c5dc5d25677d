"""A script: become a command that the kernel kills when the process that started it dies.

    python exec_with_parent.py PARENT PROGRAM ARGUMENT ...

Not ``preexec_fn``: that is unsafe in a process with threads, and torch starts some.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process; never returns."""
    if sys.platform == "linux":  # nothing of the kind elsewhere
        # It stays set over exec.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
