"""A server that tests use: found at an address, or started for them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Final, NoReturn

import pytest

from tests.servers.given import given
from tests.servers.jars import MissingError, java

HOST: Final = "127.0.0.1"
# Instead of an address: one of our own.
OURS: Final = "start"

# How long (s) a server may take to answer, and to end when asked politely.
_START: Final = 150
_END: Final = 30
_POLL: Final = 0.05

# The servers are small and live shortly: the serial collector needs the least.
_JVM: Final = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dfile.encoding=UTF-8",
)
# Code is compiled quickly and is done with: what would run faster in the end takes as long to compile as all the rest
# of a start, and tests start servers again and again.
_SHORT_LIVED: Final = ("-XX:TieredStopAtLevel=1",)

# The kernel ends a server when the thread that started it ends. This one lives as long as the tests do, also where
# a test starts a server from a thread of its own.
_SPAWNER: Final = ThreadPoolExecutor(1, "servers")


class ServerError(Exception):
    """A server did not do what it was told. The message has the end of its logs."""


class Server(ABC):
    """A server under test.

    `address`: where clients reach it, the same after every start. `log`: what it has logged so far.
    """

    name: ClassVar[str]
    address: str

    @abstractmethod
    def start(self) -> None:
        """Start it, with the data that it had, and return when it answers. Nothing happens while it runs."""

    @abstractmethod
    def stop(self) -> None:
        """End it in an orderly way, and return when it is gone."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, as a power failure would, and return when it is gone."""

    @property
    @abstractmethod
    def log(self) -> str:
        """Everything it has logged."""


class GivenServer(Server):
    """A server that somebody else runs. Tests that would end it are skipped."""

    def __init__(self, name: str, address: str) -> None:
        """Remember where it is."""
        self.name = name  # type: ignore[misc]  # the class's own name stands for a server of ours
        self.address = address

    def start(self) -> None:
        """Do nothing: it runs."""

    def stop(self) -> NoReturn:
        """Skip the test."""
        self._not_ours()

    def kill(self) -> NoReturn:
        """Skip the test."""
        self._not_ours()

    @property
    def log(self) -> str:
        """Skip the test: the log is elsewhere."""
        self._not_ours()

    def _not_ours(self) -> NoReturn:
        pytest.skip(f"the {self.name} at {self.address} is not the tests' own")


class JavaServer(Server):
    """A server that runs as one JVM on loopback, on free ports, with everything it writes in one directory.

    `short_lived`: whether it had better start soon than run fast; to be chosen before the start.
    """

    short_lived = False
    # Placeholders of further ports in the configuration, besides PORT.
    other_ports: ClassVar[tuple[str, ...]] = ()
    heap: ClassVar[str]

    def __init__(self, home: Path) -> None:
        """Choose ports. Raises `MissingError` if there is no JDK."""
        self.home = home
        self.data = home / "data"
        self.data.mkdir(parents=True)
        self.ports = dict(zip(("PORT", *self.other_ports), _free_ports(1 + len(self.other_ports)), strict=True))
        self.port = self.ports["PORT"]
        self.address = f"{HOST}:{self.port}"
        self._java = java()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def arguments(self) -> list[str]:
        """Prepare what the server needs, and give the JVM's arguments. Called before every start."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server, whose port is open, does its work."""

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        if self._process is None:
            raise ServerError(f"{self.name} does not run")
        return self._process.pid

    @property
    def log(self) -> str:
        """Its log file, and what it said on the console."""
        files = (self.home / "console.log", self.home / "server.log")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def start(self) -> None:
        """Start the JVM and wait until it answers. Raises `ServerError` with the end of the log if it does not."""
        if self._process is not None:
            return
        self._process = self._spawn(self.java_command(self.arguments()))
        deadline = time.monotonic() + _START
        while not (self._is_open() and self.answers()):
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                self.kill()
                why = f"did not answer within {_START} s" if status is None else f"ended with status {status}"
                raise ServerError(f"{self.name} {why}\n{self.log[-4000:]}")
            time.sleep(_POLL)

    def stop(self) -> None:
        """Send SIGTERM; SIGKILL if that does not help."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end(signal.SIGKILL)

    def java_command(self, arguments: list[str], heap: str | None = None) -> list[str]:
        """Give a command line that runs the JVM."""
        options = (*_JVM, *_SHORT_LIVED) if self.short_lived else _JVM
        return [str(self._java), f"-Xms{heap or self.heap}", f"-Xmx{heap or self.heap}", *options, *arguments]

    def environment(self) -> dict[str, str]:
        """Give the environment of the process."""
        return dict(os.environ)

    def privileges(self) -> list[str]:
        """Give the options of `setpriv` for a server that must not have all of ours."""
        return []

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        # A test run that is killed must not leave servers behind.
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "KILL", *self.privileges(), *command]
        with (self.home / "console.log").open("ab") as console:
            return _SPAWNER.submit(
                subprocess.Popen,
                command,
                cwd=self.home,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # Ctrl-C is for the tests; they end their servers themselves.
                start_new_session=True,
            ).result()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _is_open(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=2).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def running(kind: type[JavaServer], home: Path) -> Iterator[Server]:
    """Give the server that `LERN_TEST_<name>` names, or start one of our own (`start`) and end it afterwards.

    Without Java or Maven: skips with the reason on a developer's machine, fails in CI.
    """
    address = given(kind.name.upper())
    if address is not None and address != OURS:
        yield GivenServer(kind.name, address)
        return
    try:
        server = kind(home)
        server.short_lived = True
        server.start()
    except MissingError as error:
        unavailable(f"no {kind.name}: {error}. Or name a running one by LERN_TEST_{kind.name.upper()}.")
    try:
        yield server
    finally:
        # What it has is thrown away: nothing need be brought to an orderly end.
        server.kill()


def unavailable(reason: str) -> NoReturn:
    """Skip for want of a server, or fail where that would hide the tests that matter most."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _free_ports(count: int) -> list[int]:
    """Give ports that nobody listens on. All are held until the last is found, so they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
