"""Checks of an installation: every connection, the versions, the disk, the clocks. Nothing is changed by them.

Each check gives findings; how they are shown is the command line's. A finding that is a problem says what to do.
"""

import os
import platform
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis

from lern.doctor import cassandra, kafka, ledger, search
from lern.doctor.finding import PATIENCE, Finding, Level
from lern.doctor.finding import clock as clock_of
from lern.errors import Damaged, LernError, SchemaMissing
from lern.settings import Settings
from lern.store import open_store
from lern.urls import redacted_url, redis_place, scheme, with_reason

MIB: Final = 1024 * 1024
LITTLE_SPACE: Final = 1024 * MIB
NO_SPACE: Final = 100 * MIB
# Share of a Redis' `maxmemory` from which on it is worth a word.
LITTLE_ROOM: Final = 0.9
OLDEST_REDIS: Final = (6, 2)
OLDEST_SQLITE: Final = (3, 24)
# What is needed to reach what the settings name: (setting, package to import, extra that brings it).
DRIVERS: Final = (
    ("kafka_bootstrap", "confluent_kafka", "bridge"),
    ("search_url", "elasticsearch", "elasticsearch"),
)
# And for databases, by the scheme of their URL: (package to import, extra that brings it).
DATABASE_DRIVERS: Final = {"cassandra": ("cassandra", "cassandra"), "postgresql": ("psycopg", "postgresql")}


def examine(settings: Settings, broker_url: str) -> Iterator[Finding]:
    """Check everything that the settings name. `broker_url` is that of the embedded Redis where none is set."""
    yield versions()
    yield from directory(settings.data_dir)
    yield from drivers(settings)
    if _has_driver(settings.ledger_url_or_default):
        yield from ledger.examine(settings)
    if _has_driver(settings.store_url_or_default):
        if scheme(settings.store_url_or_default) == "cassandra":
            yield from cassandra.examine(settings)
        else:
            yield store(settings)
    yield from redis_server("broker", broker_url, settings, clock=True)
    others = {
        "locks": settings.locks_url,
        "relations": settings.relations_url_or(broker_url),
        "lms-service's Redis": settings.lms_redis_url,
    }
    failing = set()
    for name, url in others.items():
        if url is not None and not _same_server(url, broker_url):
            for found in redis_server(name, url, settings, clock=name == "locks"):
                yield found
                if found.level == "problem":
                    failing.add(name)
    if "relations" not in failing:  # A server that is away is one problem, not two.
        yield relations(settings.relations_url_or(broker_url))
    yield from servers(settings)


def versions() -> Finding:
    """Check that SQLite can what the ledger needs of it."""
    detail = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, redis-py {redis.__version__}"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return Finding("versions", "problem", detail, "SQLite 3.24 or later is needed: use a newer Python")
    return Finding("versions", "ok", detail)


def directory(path: Path) -> Iterator[Finding]:
    """Check that the data directory can be written to, and that its disk has room."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"lern")
            os.fsync(file.fileno())
    except OSError as error:
        advice = "give this user write access, or set LERN_DATA_DIR to a directory of its own"
        yield Finding("data directory", "problem", f"{path}: {error.strerror}", advice)
        return
    yield Finding("data directory", "ok", f"{path} can be written to")
    free = shutil.disk_usage(there).free
    level: Level = "problem" if free < NO_SPACE else "warning" if free < LITTLE_SPACE else "ok"
    advice = "" if level == "ok" else "make room: the journal keeps every row that is merged"
    yield Finding("disk space", level, f"{free // MIB:,} MiB free", advice)


def drivers(settings: Settings) -> Iterator[Finding]:
    """Check that the drivers of what the settings name are installed."""
    wanted: list[tuple[str, str] | None] = [
        (package, extra) for setting, package, extra in DRIVERS if getattr(settings, setting) is not None
    ]
    wanted += map(_driver, (settings.store_url_or_default, settings.ledger_url_or_default))
    for package, extra in dict.fromkeys(filter(None, wanted)):
        if find_spec(package) is None:
            yield Finding("drivers", "problem", f"{package} is not installed", f"install lern[{extra}]")


def _has_driver(url: str) -> bool:
    """Whether a server can be asked at all: a driver that is missing has been named."""
    driver = _driver(url)
    return driver is None or find_spec(driver[0]) is not None


def _driver(url: str) -> tuple[str, str] | None:
    return DATABASE_DRIVERS.get(scheme(url).partition("+")[0])


def store(settings: Settings) -> Finding:
    """Check that the store answers and has the tables."""
    url = settings.store_url_or_default
    where = redacted_url(url)
    file = Path(url.partition(":///")[2]) if settings.store_url is None else None
    if file is not None and not file.exists():
        return Finding("store", "ok", f"{where}: is created when it is first used")
    try:
        with closing(open_store(settings)) as found:
            found.check()
    except SchemaMissing as error:
        return Finding("store", "problem", str(error), "run: lern migrate")
    except Damaged as error:
        return Finding("store", "problem", str(error), error.advice)
    except LernError as error:
        return Finding("store", "problem", f"{where}: {error}", "start it, or mend LERN_STORE_URL; lern migrate")
    return Finding("store", "ok", f"{where}, all tables are there")


def redis_server(name: str, url: str, settings: Settings, *, clock: bool) -> Iterator[Finding]:
    """Check that a Redis answers, is recent enough, forgets nothing by itself, and has the same time as we."""
    variable = {"broker": "LERN_BROKER_URL", "locks": "LERN_LOCKS_URL", "relations": "LERN_RELATIONS_URL"}.get(
        name, "LERN_LMS_REDIS_URL"
    )
    with closing(_client(url)) as client:
        try:
            info: Any = client.info()
            seconds, microseconds = _time(client)
        except redis.RedisError as error:
            yield Finding(name, "problem", with_reason(url, error), f"start it, or mend {variable}")
            return
    version = str(info.get("redis_version", "0"))
    place = "{0.host}:{0.port}/{0.db}".format(redis_place(url))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield Finding(name, "problem", f"Redis {version} at {place}", "Redis 6.2 or later is needed")
    else:
        yield Finding(name, "ok", f"Redis {version} at {place}")
    if name in {"broker", "locks"}:
        yield from _memory(name, info)
    if clock:
        yield clock_of(f"the {name}'s host", seconds + microseconds / 1_000_000 - time.time(), settings.max_clock_ahead)


def _memory(name: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    limit = int(info.get("maxmemory", 0))
    if policy != "noeviction" and limit:
        advice = "CONFIG SET maxmemory-policy noeviction: messages and locks must not be thrown away"
        yield Finding(name, "problem", f"maxmemory-policy is {policy}", advice)
    elif limit:
        # What Redis itself counts: not the buffers that it needs for its file and its replicas.
        used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
        yield from _room(name, used, limit)
    if name == "broker" and not info.get("aof_enabled"):
        advice = "CONFIG SET appendonly yes saves a search of the ledger after every restart of Redis"
        yield Finding(name, "warning", "no append-only file: a restart forgets the queue", advice)


def _room(name: str, used: int, limit: int) -> Iterator[Finding]:
    """Judge how much of its `maxmemory` a Redis uses. Full, it still answers, but takes no message and no lock."""
    if used < LITTLE_ROOM * limit:
        return
    full = used >= limit
    detail = f"{'it is full' if full else 'it is nearly full'}: {used / MIB:,.1f} of {limit / MIB:,.1f} MiB (maxmemory)"
    advice = "CONFIG SET maxmemory to more, or find what fills it; never another maxmemory-policy"
    yield Finding(name, "problem" if full else "warning", detail, advice)


def relations(url: str) -> Finding:
    """Check that something is known of the courses: without relations no progress can be computed."""
    with closing(_client(url)) as client:
        try:
            size: Any = client.dbsize()
        except redis.RedisError as error:
            return Finding("relations", "problem", with_reason(url, error), "start it, or mend LERN_RELATIONS_URL")
    if size:
        return Finding("relations", "ok", f"{size:,} keys in database {redis_place(url).db}")
    advice = "set LERN_RELATIONS_URL to Sunbird's relation cache, or load them: lern rows load"
    return Finding("relations", "warning", "there are none: progress is not computed after a merge", advice)


def servers(settings: Settings) -> Iterator[Finding]:
    """Check the other servers, each as far as it can be asked."""
    named = {
        "lms-service": (settings.lms_url, "LERN_LMS_URL"),
        "user and org service": (settings.userorg_url, "LERN_USERORG_URL"),
    }
    for name, (url, variable) in named.items():
        if url is not None:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            yield _reached(name, parts.hostname or "", port, variable)
    if settings.search_url is not None and find_spec("elasticsearch") is not None:
        yield from search.examine(settings)
    if settings.kafka_bootstrap is not None and find_spec("confluent_kafka") is not None:
        yield from kafka.examine(settings)


def _reached(name: str, host: str, port: int, variable: str) -> Finding:
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        return Finding(name, "problem", f"{host}:{port}: {error}", f"start it, or mend {variable}")
    return Finding(name, "ok", f"{host}:{port} takes connections")


def _same_server(one: str, other: str) -> bool:
    return redis_place(one)[:2] == redis_place(other)[:2]


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)


def _time(client: redis.Redis) -> tuple[int, int]:
    answer: Any = client.time()
    return answer[0], answer[1]
