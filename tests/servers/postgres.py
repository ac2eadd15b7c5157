"""PostgreSQL as the distribution packages it: on loopback, in a directory of its own, never the machine's cluster."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql

from tests.servers.jars import MissingError
from tests.servers.server import HOST, Server, ServerError, unavailable

_INSTALLED: Final = Path("/usr/lib/postgresql")
_START: Final = 60
_POLL: Final = 0.02


class PostgresServer(Server):
    """A PostgreSQL. `address` is host:port, the same after every start; `url()` names a database."""

    name = "postgres"

    def __init__(self) -> None:
        """Create a cluster. Raises `MissingError` if PostgreSQL is not installed."""
        self._programs = _programs()
        # Not below pytest's directory: that is closed to all but its owner, and PostgreSQL refuses to be root.
        self.home = Path(tempfile.mkdtemp(prefix="lern-postgres-"))
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.home, "postgres", "postgres")
            self._as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._initialise()

    def url(self, database: str = "postgres") -> str:
        """Give the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://lern@{self.address}/{database}"

    def new_database(self) -> str:
        """Create an empty database, and give its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with self.connection() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def read_only(self, url: str, *, on: bool) -> None:
        """Have connections to a database that are made from now on take no writes, or take them again."""
        with self.connection() as connection:
            name, value = sql.Identifier(url.rpartition("/")[2]), sql.Literal(on)
            connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(name, value))

    def connection(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Give a plain connection, in autocommit mode."""
        return psycopg.connect(f"postgresql://lern@{self.address}/postgres", autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Start it, with the data that it had, and return when it answers."""
        if self._process is not None:
            return
        with (self.home / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user
            )
        deadline = time.monotonic() + _START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"postgres does not start\n{self.log[-4000:]}")
            time.sleep(_POLL)

    def stop(self) -> None:
        """Shut it down: connections are cut, what was committed is kept."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it without writing anything any more. It recovers from its log at the next start."""
        # SIGQUIT ends its children as well; SIGKILL would leave them, and the port, for some time.
        self._end(signal.SIGQUIT)

    @property
    def log(self) -> str:
        """What it has written to its log."""
        file = self.home / "console.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def remove(self) -> None:
        """End it and delete its files."""
        self.kill()
        shutil.rmtree(self.home)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _initialise(self) -> None:
        options = ["--auth=trust", "--username=lern", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = [str(self._programs / "initdb"), f"--pgdata={self.home / 'data'}", *options]
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False, **self._as_user)
        if done.returncode:
            raise ServerError(f"initdb failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.home),
            # Power failures are not what is tested here.
            "fsync": "off",
            "log_min_messages": "warning",
            "max_connections": "200",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.home / "data"), *settings]
        # A test run that is killed must not leave servers behind.
        if setpriv := shutil.which("setpriv"):
            return [setpriv, "--pdeathsig", "KILL", *command]
        return command

    def _answers(self) -> bool:
        try:
            self.connection().close()
        except psycopg.OperationalError:
            return False
        return True


def _programs() -> Path:
    """Give the directory of the newest version installed. Raises `MissingError`."""
    found = [path for path in _INSTALLED.glob("*/bin") if (path / "initdb").exists()]
    if not found:
        raise MissingError(f"no PostgreSQL in {_INSTALLED} (Debian's package `postgresql`)")
    return max(found, key=lambda path: float(path.parent.name))


def _running() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer()
    except MissingError as error:
        unavailable(f"no postgres: {error}.")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one PostgreSQL that tests share. Nobody stops it: who wants to takes `own_postgres`."""
    yield from _running()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, which may stop and kill it."""
    yield from _running()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of a database that all tests share: names in it are unique per test."""
    return postgres_server.url()


@pytest.fixture
def new_postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database for one test."""
    return postgres_server.new_database()
