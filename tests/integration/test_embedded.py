"""The private Redis of a data directory: there when it is needed, gone when it is not, whatever crashed before."""

import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lern.embedded import EmbeddedError, EmbeddedRedis, ensure_redis
from lern.errors import Busy
from lern.locks import Locks
from lern.redis_server import open_lock, try_lock

PATIENCE = 30.0

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory, of a name that no configuration file likes; whatever a test has left running there is ended."""
    directory = tmp_path / 'a "strange" name'
    yield directory
    with EmbeddedRedis(directory):
        pass


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        about: Any = client.info("server")
        return int(about["process_id"])


def put(url: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("kept", value)


def kept(url: str) -> object:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.get("kept")


def answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def end(pid: int, url: str) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not answers(url))


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


# Its life


def test_it_runs_for_as_long_as_it_is_used_and_keeps_what_it_was_given(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        url = used.url
        put(url, "something")
    assert not answers(url)
    with EmbeddedRedis(data_dir) as used:
        assert kept(used.url) == "something"


def test_users_share_one_and_the_last_to_leave_ends_it(data_dir: Path) -> None:
    first, second = EmbeddedRedis(data_dir), EmbeddedRedis(data_dir)
    assert first.join() == second.join()
    url = first.url
    first.leave()
    assert answers(url)
    second.leave()
    assert not answers(url)
    second.leave()


def test_many_who_come_at_once_find_one(data_dir: Path) -> None:
    users = [_use_elsewhere(data_dir) for _ in range(4)]
    urls = {pipe.recv() for _, pipe in users}
    assert len(urls) == 1
    url = urls.pop()
    for process, pipe in users:
        assert answers(url)
        pipe.send("leave")
        process.join()
        assert process.exitcode == 0
    assert not answers(url)


def test_a_process_that_ends_in_an_orderly_way_leaves(data_dir: Path) -> None:
    program = "import sys, pathlib, lern.embedded as e; print(e.ensure_redis(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", program, data_dir], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("redis://")
    assert not answers(done.stdout.strip())


def test_needing_it_again_is_using_it_once(data_dir: Path) -> None:
    url = ensure_redis(data_dir)
    assert ensure_redis(data_dir) == url
    with EmbeddedRedis(data_dir) as used:
        assert used.url == url


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_leave_for_its_parent(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        child = os.fork()
        if not child:
            used.leave()
            os._exit(0)
        os.waitpid(child, 0)
        assert answers(used.url)


def test_it_has_no_address_before_it_is_used(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="does not use"):
        _ = EmbeddedRedis(data_dir).url


# Strangers


def test_two_data_directories_never_meet(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "one") as one, EmbeddedRedis(tmp_path / "two") as two:
        put(one.url, "of one")
        assert kept(two.url) is None
        assert _password(one.url) != _password(two.url)


def test_a_copy_of_a_directory_gets_a_server_of_its_own(data_dir: Path, tmp_path: Path) -> None:
    with EmbeddedRedis(data_dir) as original:
        put(original.url, "of the original")
        shutil.copytree(data_dir, tmp_path / "copy")
        with EmbeddedRedis(tmp_path / "copy") as copy:
            assert copy.url != original.url
            put(copy.url, "of the copy")
        assert kept(original.url) == "of the original"


def test_a_port_that_somebody_else_has_taken_is_left_to_them(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        before = used.url
        put(before, "something")
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", _port(before)))
        stranger.listen()
        with EmbeddedRedis(data_dir) as used:
            assert used.url != before
            assert kept(used.url) == "something"


def test_nobody_else_on_the_machine_can_read_the_password(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        assert stat.S_IMODE(used.directory.stat().st_mode) == 0o700
        for name in ("redis.json", "redis.conf"):
            assert stat.S_IMODE((used.directory / name).stat().st_mode) == 0o600
        command = Path(f"/proc/{pid_of(used.url)}/cmdline").read_bytes()
        assert _password(used.url).encode() not in command
        without = Retry(NoBackoff(), 0)
        with redis.Redis(port=_port(used.url), retry=without) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


# Crashes


def test_a_server_whose_user_was_killed_is_adopted_and_ended(data_dir: Path) -> None:
    user, pipe = _use_elsewhere(data_dir)
    url = pipe.recv()
    put(url, "something")
    pid = pid_of(url)
    user.kill()
    user.join()
    with EmbeddedRedis(data_dir) as used:
        assert used.url == url
        assert pid_of(url) == pid
        assert kept(url) == "something"
    assert not answers(url)


def test_a_server_that_was_killed_is_started_anew_with_what_it_knew(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        url = used.url
        put(url, "something")
        end(pid_of(url), url)
        assert used.join() == url
        assert kept(url) == "something"


def test_a_server_that_is_still_starting_is_waited_for(data_dir: Path) -> None:
    user, pipe = _use_elsewhere(data_dir)
    url = pipe.recv()
    pid = pid_of(url)
    os.kill(pid, signal.SIGSTOP)
    user.kill()
    user.join()
    second, pipe = _use_elsewhere(data_dir)
    until(lambda: _is_locked(data_dir / "redis" / "start.lock"))
    os.kill(pid, signal.SIGCONT)
    assert pipe.recv() == url
    assert pid_of(url) == pid
    pipe.send("leave")
    second.join()


@pytest.mark.parametrize("tail", [b"*3\r\n$3\r\nSET\r\n$4\r\nke", b"\0" * 4096], ids=["torn", "zeroes"])
def test_an_append_log_that_a_power_failure_spoilt_is_read_as_far_as_it_makes_sense(
    data_dir: Path, tail: bytes
) -> None:
    with EmbeddedRedis(data_dir) as used:
        put(used.url, "something")
    with (used.directory / "appendonly.aof").open("ab") as log:
        log.write(tail)
    with EmbeddedRedis(data_dir) as used:
        assert kept(used.url) == "something"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"port": "many"}'])
def test_files_of_a_crash_do_not_stop_the_next_start(data_dir: Path, content: str | None) -> None:
    with EmbeddedRedis(data_dir) as used:
        put(used.url, "something")
    (used.directory / "redis.pid").write_text("1\n")
    (used.directory / "redis.new").write_text("half of a f")
    recorded = used.directory / "redis.json"
    if content is None:
        recorded.unlink()
    else:
        recorded.write_text(content)
    with EmbeddedRedis(data_dir) as used:
        assert kept(used.url) == "something"


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        log = used.directory / "appendonly.aof"
    log.unlink()
    log.mkdir()
    with pytest.raises(EmbeddedError, match=r"does not start: .*open the append-only file"):
        EmbeddedRedis(data_dir).join()
    log.rmdir()
    with EmbeddedRedis(data_dir) as used:
        assert _can_lock(used.url)


# Locks in it


def test_the_first_to_come_has_locks_at_once(data_dir: Path) -> None:
    for _ in range(2):
        with EmbeddedRedis(data_dir) as used:
            assert _can_lock(used.url)


def test_locks_wait_when_the_server_was_restarted_under_others(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as used:
        user, pipe = _use_elsewhere(data_dir)
        url = pipe.recv()
        end(pid_of(url), url)
        assert used.join() == url
        assert not _can_lock(url)
        pipe.send("leave")
        user.join()


def _can_lock(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            with Locks(client, ttl=10.0).hold(["anybody"], "some", 0):
                return True
        except Busy:
            return False


def _is_locked(path: Path) -> bool:
    lock = open_lock(path)
    try:
        return not try_lock(lock)
    finally:
        os.close(lock)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def _password(url: str) -> str:
    return url.removeprefix("redis://:").partition("@")[0]


def _use_elsewhere(data_dir: Path) -> "tuple[multiprocessing.process.BaseProcess, Connection]":
    ours, theirs = spawn.Pipe()
    user = spawn.Process(target=_use, args=(data_dir, theirs), daemon=True)
    user.start()
    return user, ours


def _use(data_dir: Path, pipe: Connection) -> None:
    with EmbeddedRedis(data_dir) as used:
        pipe.send(used.url)
        pipe.recv()
