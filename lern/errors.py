"""What can go wrong, named by what is to be done about it. `lern.retry` turns these into decisions."""


class LernError(Exception):
    """The base of every error this system raises on purpose. `code` is stable, for dashboards and scripts."""

    code = "ERROR"


class BadRow(LernError):
    """A stored row breaks the contract: retrying cannot help until somebody mends it."""

    code = "BAD_ROW"

    def __init__(self, table: str, key: object, column: str, problem: str) -> None:
        """Name the table, the row's primary key, the column and what is wrong with it."""
        super().__init__(f"{table} {key!r}, column {column}: {problem}")
        self.table, self.key, self.column, self.problem = table, key, column, problem


class ClockAhead(BadRow):
    """A cell was written with a time too far ahead of this clock: our writes would lose against it."""

    code = "CLOCK_AHEAD"


class TooEarly(LernError):
    """A cell was written with a time a little ahead of this clock. Our write wins when that time has come.

    `seconds`: until then. It is waited for; no attempt is used up.
    """

    code = "TOO_EARLY"

    def __init__(self, problem: str, seconds: float) -> None:
        """Name the cell."""
        super().__init__(problem)
        self.seconds = seconds


class Unreachable(LernError):
    """A server does not answer. It is waited for; no attempt is used up."""

    code = "UNREACHABLE"

    def __init__(self, server: str, problem: str) -> None:
        """Name the server by its role (store, ledger, broker, locks, kafka, search) and the problem."""
        super().__init__(f"{server} cannot be reached: {problem}")
        self.server, self.problem = server, problem


class Overloaded(Unreachable):
    """A server is there, but takes no more work at the moment: too much to do, or no room. It is waited for as well."""

    code = "OVERLOADED"

    def __init__(self, server: str, problem: str) -> None:
        """Name the server by its role and the problem."""
        super().__init__(server, problem)
        self.args = (f"{server} takes no more work at the moment: {problem}",)


class Damaged(Unreachable):
    """A database's file cannot be read as one. It is waited for too: somebody has to put a good one in its place."""

    code = "DAMAGED"
    advice = "put a copy of it back; if it is moved away, an empty one takes its place"

    def __init__(self, server: str, file: object, problem: str) -> None:
        """Name the database by its role, its file and the problem."""
        super().__init__(server, problem)
        self.args = (f"{file}, the {server}'s file, is damaged or no database at all ({problem})",)


class Transient(LernError):
    """Something failed that may well go right the next time."""

    code = "TRANSIENT"


class Unsettled(Transient):
    """Rows would not settle within the rounds allowed: somebody writes them faster than we do."""

    code = "UNSETTLED"


class LockLost(Transient):
    """The step no longer holds its users. It must not write any more."""

    code = "LOCK_LOST"


class Busy(LernError):
    """Another step holds one of the users. Waiting for it is no failure."""

    code = "BUSY"


class Stopping(LernError):
    """The worker is being stopped. What is left of the step is another's; no attempt is used up."""

    code = "STOPPING"


class TooLarge(LernError):
    """An outgoing event is larger than its topic takes. Trying again cannot help."""

    code = "TOO_LARGE"


class Refused(LernError):
    """What was asked for cannot be done as things stand (a circle, already merged, a later merge stands)."""

    code = "REFUSED"


class SettingsError(LernError):
    """The environment asks for something unknown or unsafe. The message names every variable at fault, one a line."""

    code = "SETTINGS"


class SchemaMissing(LernError):
    """The ledger's tables are not those that this version needs: `lern migrate` makes them."""

    code = "SCHEMA"

    def __init__(self, problem: str) -> None:
        """Say what was found; what to do about it is added."""
        super().__init__(f"the ledger's schema is not what this version needs ({problem}): run `lern migrate`")


class WorkerLost(LernError):
    """Workers died in this step again and again: whatever kills them would kill the next one too."""

    code = "WORKER_LOST"
