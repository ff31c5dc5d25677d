"""A script: become a program in which the signals to stop wait until it can obey them.

    python -I -S exec_signals_blocked.py PROGRAM ARGUMENT ...

A signal that comes while Python imports would end the process and with it the job.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
    os.execv(sys.argv[1], sys.argv[1:])
