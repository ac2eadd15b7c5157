"""Forks that wait until other threads are out of what must not be copied in the middle.

A worker forks its children. A child that is forked while another thread is inside a driver, or inside the
metrics, would inherit the locks that the thread holds, for ever.
"""

import os
import threading
from typing import Final

NO_FORKS: Final = threading.Lock()
"""Held by a thread, it keeps this process from forking. Not for the thread that forks."""

os.register_at_fork(before=NO_FORKS.acquire, after_in_parent=NO_FORKS.release, after_in_child=NO_FORKS.release)
