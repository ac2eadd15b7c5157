"""SQLite's write lock, which the processes of an installation take in turns."""

import sqlite3
import time
from typing import Any, Final

# What SQLite waits between two tries is whole milliseconds, soon ten of them. What others write takes a tenth of one.
_PAUSES: Final = (0.0001,) * 10 + (0.0003,) * 10


def begin_immediate(driver: Any, patience: float) -> None:
    """Begin to write: at once, soon, or within `patience` (seconds). Raises what sqlite3 does.

    `driver`: a connection of sqlite3 in autocommit mode, whose own patience is that as well.
    """
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        for pause in _PAUSES:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                time.sleep(pause)
            else:
                return
    finally:
        driver.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
    driver.execute("BEGIN IMMEDIATE")
