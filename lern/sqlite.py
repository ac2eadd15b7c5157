"""SQLite's write lock, which the processes of an installation take in turns."""

import sqlite3
import time
from itertools import chain, repeat
from typing import Any, Final

# SQLite itself waits for whole milliseconds, soon for ten of them. What others write takes a tenth of one.
_PAUSES: Final = (*repeat(0.0001, 10), *repeat(0.0003, 10), *repeat(0.001, 20))
_LATER: Final = 0.01


def begin_immediate(driver: Any, patience: float) -> None:
    """Begin to write: at once, soon, or within `patience` (seconds). Raises what sqlite3 does.

    `driver`: a connection of sqlite3 in autocommit mode that does not wait by itself (`PRAGMA busy_timeout` is 0).
    """
    until = time.monotonic() + patience
    for pause in chain(_PAUSES, repeat(_LATER)):
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        else:
            return
        time.sleep(pause)
