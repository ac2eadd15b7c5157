"""A program that becomes another one, tied to whoever started it.

    python tied.py STARTER DESCRIPTOR COMMAND...

It writes its process number into the open file DESCRIPTOR, so there is no moment at which the command runs and nobody
knows its number. On Linux the command is sent SIGTERM when its starter, the process STARTER, has died. A program of its
own, because nothing but this may be done between fork and exec in a process that has threads.
"""

import ctypes
import os
import signal
import sys
from typing import Final

# <sys/prctl.h>. Kept by exec, and not inherited by what the command forks.
PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Tie this process, and become the command."""
    starter, descriptor, *command = sys.argv[1:]
    os.pwrite(int(descriptor), str(os.getpid()).encode(), 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have died before it could be told from.
    if os.getppid() != int(starter):
        sys.exit("its starter has ended")
    os.execv(command[0], command)  # noqa: S606 - the command is one of `lern.cli.children`


if __name__ == "__main__":
    main()
