"""Two steps never hold one user, whatever happens to them, to Redis and to what is between."""

import itertools
import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import redis

from lern.errors import Busy, LockLost, Unreachable
from lern.locks import PREFIX, Held, Holder, Locks
from tests.servers.redis import RedisServer

PATIENCE = 30.0
SHORT = 1.0

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as opened:
        yield opened


@pytest.fixture
def locks(client: redis.Redis) -> Locks:
    return Locks(client, ttl=SHORT)


@pytest.fixture
def own_locks(own_redis: RedisServer) -> Iterator[Locks]:
    with own_redis.client() as opened:
        yield Locks(opened, ttl=SHORT)


@pytest.fixture
def users() -> list[str]:
    """Two users nobody else knows, in the order in which Redis is asked for them."""
    return sorted(f"user-{uuid.uuid4()}" for _ in range(2))


def token() -> str:
    return uuid.uuid4().hex


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def is_lost(held: Held) -> bool:
    try:
        held.check()
    except LockLost:
        return True
    return False


def taken(locks: Locks, users: list[str], by: str, holder: str = "") -> bool:
    """Take users as another process does, and leave them to expire; tells whether they were to be had."""
    return locks._ask(users, by, "nonce", holder) is None


# What holding means


def test_users_are_held_within_the_block_and_free_after_it(locks: Locks, users: list[str]) -> None:
    mine = token()
    with locks.hold(users, mine, 0, "run-1 merge.content") as held:
        held.check()
        assert held.users == set(users)
        assert locks.holders(users) == dict.fromkeys(users, Holder(mine, "run-1 merge.content"))
        assert locks.tokens([*users, "nobody-holds-me"]) == dict.fromkeys(users, mine)
    assert locks.tokens(users) == {}
    with pytest.raises(LockLost, match="released"):
        held.check()


def test_all_users_are_taken_or_none(locks: Locks, users: list[str]) -> None:
    first, second = users
    theirs = token()
    with locks.hold([second], theirs, 0, "run-1 merge.content"):
        with (
            pytest.raises(Busy, match=f"user {second} is held by run-1 merge.content .*{theirs}"),
            locks.hold(users, token(), 0),
        ):
            pytest.fail("it took a user who is held")
        assert locks.holders([first]) == {}


def test_a_busy_user_is_waited_for(locks: Locks, users: list[str]) -> None:
    with locks.hold(users, token(), 0) as first:
        freed = threading.Timer(0.05, first.release)
        freed.start()
        with locks.hold(users, token(), PATIENCE) as second:
            second.check()
            assert is_lost(first)
        freed.join()


def test_users_are_freed_when_the_step_fails(locks: Locks, users: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold(users, token(), 0):
        raise ZeroDivisionError
    assert locks.tokens(users) == {}


@pytest.mark.parametrize(("whom", "by"), [([], "abc"), (["A"], ""), (["A"], "two words"), (["A"], "a\nb")])
def test_what_no_lock_can_be_made_of_is_refused(locks: Locks, whom: list[str], by: str) -> None:
    with pytest.raises(ValueError, match="locks need users"), locks.hold(whom, by, 0):
        pytest.fail("it held nobody, or by nothing")


def test_a_redis_that_does_not_answer_is_named(users: list[str]) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        nobody = redis.Redis(port=deaf.getsockname()[1])
        locks = Locks(nobody, ttl=SHORT)
        with pytest.raises(Unreachable, match="locks cannot be reached"), locks.hold(users, token(), 0):
            pytest.fail("it held by nothing")
        with pytest.raises(Unreachable, match="locks cannot be reached"):
            locks.tokens(users)


# Whose a lock is


def test_a_lock_that_went_to_somebody_else_is_not_freed(locks: Locks, client: redis.Redis, users: list[str]) -> None:
    theirs = token()
    with locks.hold(users, token(), 0):
        client.delete(*(PREFIX + user for user in users))
        assert taken(locks, users, theirs)
    assert locks.tokens(users) == dict.fromkeys(users, theirs)


def test_a_hold_of_before_can_neither_free_nor_renew_the_next_one_of_its_token(
    locks: Locks, client: redis.Redis, users: list[str]
) -> None:
    mine = token()
    with locks.hold(users, mine, 0) as first:
        client.delete(*(PREFIX + user for user in users))
        with locks.hold(users, mine, 0) as second:
            locks.renew(first)
            assert is_lost(first)
            first.release()
            locks.renew(second)
            second.check()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_neither_holds_nor_frees_what_its_parent_holds(locks: Locks, users: list[str]) -> None:
    mine = token()
    with locks.hold(users, mine, 0) as held:
        child = os.fork()
        if not child:
            lost = is_lost(held)
            held.release()
            os._exit(0 if lost else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert locks.tokens(users) == dict.fromkeys(users, mine)
        held.check()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_holds_and_renews_by_itself(locks: Locks, users: list[str]) -> None:
    first, second = users
    with locks.hold([first], token(), 0) as held:
        assert _renewed(held)
        child = os.fork()
        if not child:
            os._exit(_hold_and_renew(locks, second))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        held.check()


def test_a_forked_child_does_not_renew_what_its_dead_parent_held(
    redis_server: RedisServer, locks: Locks, users: list[str]
) -> None:
    ours, theirs = spawn.Pipe()
    parent = spawn.Process(target=_hold_and_fork, args=(redis_server.url, users, theirs), daemon=True)
    parent.start()
    assert ours.recv() == "the child holds"
    parent.kill()
    parent.join()
    with locks.hold(users[:1], token(), 10 * SHORT) as held:
        held.check()
        assert list(locks.holders(users[1:])) == users[1:]
    ours.send("end")


def _hold_and_fork(url: str, users: list[str], pipe: Connection) -> None:
    locks = Locks(redis.Redis.from_url(url), ttl=SHORT)
    with locks.hold(users[:1], token(), 0):
        if os.fork():
            signal.pause()
        with locks.hold(users[1:], token(), 0) as held:
            assert _renewed(held)
            pipe.send("the child holds")
            pipe.recv()
            os._exit(0)


def _hold_and_renew(locks: Locks, user: str) -> int:
    with suppress(Exception), locks.hold([user], token(), 0) as held:
        return 0 if _renewed(held) else 1
    return 1


def _renewed(held: Held) -> bool:
    begun = held.lease.confirmed
    until(lambda: held.lease.confirmed > begun or is_lost(held))
    return not is_lost(held)


# Losing it


def test_a_lock_is_renewed_for_as_long_as_it_is_held(locks: Locks, users: list[str]) -> None:
    with locks.hold(users, token(), 0) as held:
        begun = held.lease.confirmed
        until(lambda: held.lease.confirmed > begun + SHORT)
        held.check()


def test_a_lock_that_is_gone_is_noticed_and_not_taken_again(
    locks: Locks, client: redis.Redis, users: list[str]
) -> None:
    with locks.hold(users, token(), 0) as held:
        client.delete(PREFIX + users[1])
        locks.renew(held)
        with pytest.raises(LockLost, match=f"user {users[1]}: the lock is gone"):
            held.check()
        assert locks.holders(users[1:]) == {}


def test_a_stolen_lock_is_noticed_by_itself(locks: Locks, client: redis.Redis, users: list[str]) -> None:
    with locks.hold(users, token(), 0) as held:
        client.delete(PREFIX + users[0])
        assert taken(locks, users[:1], token(), "a thief")
        until(lambda: is_lost(held))
        with pytest.raises(LockLost, match="held by a thief"):
            held.check()


def test_a_lock_is_distrusted_when_nobody_renews_it(locks: Locks, users: list[str]) -> None:
    with locks.hold(users, token(), 0) as held:
        assert held.heart is not None
        held.heart.remove(held)
        with locks.hold(users, token(), PATIENCE):
            assert is_lost(held)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced_by_the_next_hold(
    locks: Locks, users: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Held) -> None:
        raise SystemExit

    with locks.hold(users[:1], token(), 0) as first:
        # Nothing that the thread meets is meant to end it.
        with monkeypatch.context() as patched:
            patched.setattr(locks, "renew", die)
            until(lambda: is_lost(first))
        with locks.hold(users[1:], token(), 0) as second:
            assert _renewed(second)


def test_a_lock_is_distrusted_before_a_redis_that_was_restarted_gives_the_user_away(
    own_redis: RedisServer, own_locks: Locks, users: list[str]
) -> None:
    with own_locks.hold(users, token(), 0) as held:
        own_redis.kill()
        own_redis.start()
        with own_redis.client() as client:
            other = Locks(client, ttl=SHORT)
            with pytest.raises(Busy, match="emptied or restarted"), other.hold(users, token(), 0):
                pytest.fail("it took a user whose holder may not know yet")
            with other.hold(users, token(), PATIENCE) as taken:
                assert is_lost(held)
                taken.check()


def test_a_lock_is_distrusted_before_a_redis_that_was_emptied_gives_the_user_away(
    own_redis: RedisServer, own_locks: Locks, users: list[str]
) -> None:
    with own_locks.hold(users, token(), 0) as held, own_redis.client() as client:
        client.flushall()
        with Locks(client, ttl=SHORT).hold(users, token(), PATIENCE) as taken:
            assert is_lost(held)
            taken.check()


def test_a_lock_is_distrusted_while_redis_is_gone(own_redis: RedisServer, own_locks: Locks, users: list[str]) -> None:
    with own_locks.hold(users, token(), 0) as held:
        own_redis.kill()
        until(lambda: is_lost(held))
    # Nor does leaving the block fail for want of Redis: what was done is done, and the lock expires.


def test_who_knows_that_nothing_is_forgotten_can_have_locks_granted_at_once(
    own_redis: RedisServer, own_locks: Locks, users: list[str]
) -> None:
    own_redis.kill()
    own_redis.start()
    assert not taken(own_locks, users, token())
    own_locks.vouch()
    assert taken(own_locks, users, token())


# Processes


def test_processes_never_hold_the_same_user_at_once(
    redis_server: RedisServer, users: list[str], tmp_path: Path
) -> None:
    everyone = [*users, f"user-{uuid.uuid4()}"]
    workers = [spawn.Process(target=_contend, args=(redis_server.url, everyone, tmp_path, shift)) for shift in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def _contend(url: str, everyone: list[str], witness: Path, shift: int) -> None:
    """Hold pairs in turn. While a pair is held there is a file for each, which cannot be made twice."""
    locks = Locks(redis.Redis.from_url(url), ttl=10.0)
    pairs = list(itertools.permutations(everyone, 2)) * 8
    for pair in pairs[shift:]:
        with locks.hold(pair, token(), PATIENCE) as held:
            for user in pair:
                (witness / user).touch(exist_ok=False)
            held.check()
            for user in pair:
                (witness / user).unlink()


def test_a_dead_holders_users_are_free_within_the_ttl(
    redis_server: RedisServer, locks: Locks, users: list[str]
) -> None:
    holder, _ = _hold_elsewhere(redis_server.url, users)
    holder.kill()
    holder.join()
    with redis_server.client() as client:
        assert all(0 < client.pttl(PREFIX + user) <= SHORT * 1000 for user in users)
    with locks.hold(users, token(), PATIENCE) as held:
        held.check()


def test_a_holder_that_stood_still_beyond_the_ttl_knows_that_it_lost(
    redis_server: RedisServer, locks: Locks, users: list[str]
) -> None:
    holder, pipe = _hold_elsewhere(redis_server.url, users)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGSTOP)
    with locks.hold(users, token(), PATIENCE) as held:
        pipe.send("look")
        os.kill(holder.pid, signal.SIGCONT)
        assert pipe.recv() == "lost"
        holder.join()
        # Leaving its block, it has not freed the users for a third.
        locks.renew(held)
        held.check()


def _hold_elsewhere(url: str, users: list[str]) -> "tuple[multiprocessing.process.BaseProcess, Connection]":
    ours, theirs = spawn.Pipe()
    holder = spawn.Process(target=_hold_and_tell, args=(url, users, theirs), daemon=True)
    holder.start()
    assert ours.recv() == "held"
    return holder, ours


def _hold_and_tell(url: str, users: list[str], pipe: Connection) -> None:
    with Locks(redis.Redis.from_url(url), ttl=SHORT).hold(users, token(), 0) as held:
        pipe.send("held")
        pipe.recv()
        answer = "lost" if is_lost(held) else "held"
    pipe.send(answer)
