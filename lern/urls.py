"""URLs of servers: what may be said about one without connecting to it, and how it is shown without its secrets."""

import ipaddress
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

_USERINFO = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s'\"]+@")
# Where the text is one URL and nothing else: what is in its password may be anything.
_ONE_USERINFO = re.compile(r"(?<=://)([^:/@]*):.*@", re.DOTALL)
_QUERY = re.compile(r"([?&](?:[\w.-]*(?:password|passwd|secret|token)|api_key)=)[^&\s'\"]+", re.IGNORECASE)
_REDIS_PORT = 6379
# Passed on to SQLAlchemy as they are, less the driver's name: psycopg 3 is the one that we install.
_POSTGRESQL = re.compile(r"^postgresql(?=:)")


class RedisPlace(NamedTuple):
    """Where a Redis URL points: two URLs with the same place share their keys."""

    host: str
    port: int
    db: int


def redacted(text: str) -> str:
    """Give `text` with the passwords of every URL in it replaced by `***`.

    Rather too much is hidden than too little: a password with an unescaped `/` or `@` is one still.
    """
    return _QUERY.sub(r"\1***", _USERINFO.sub(r"\1:***@", text))


def redacted_url(url: str) -> str:
    """Give a URL as `redacted` does, whatever its password has in it: a blank or a quote ends nothing here."""
    return redacted(_ONE_USERINFO.sub(r"\1:***@", url))


def with_reason(url: str, reason: object) -> str:
    """Give a URL and what is wrong there, both without their passwords: what a driver says may repeat the URL."""
    return f"{redacted_url(url)}: {redacted(str(reason))}"


def scheme(url: str) -> str:
    """Give the part before `://`, in lower case, empty when there is none."""
    before, separator, _ = url.partition("://")
    return before.lower() if separator else ""


def is_loopback(url: str) -> bool:
    """Whether the server is this machine under a name that no other machine can use."""
    return _host(url) == "127.0.0.1"


def redis_place(url: str) -> RedisPlace:
    """Give host, port and database of a `redis://` or `rediss://` URL.

    Raises ValueError when the port or the database is no number: redis-py would take database 0 in silence.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or _REDIS_PORT
    except ValueError:
        # urllib's own words repeat a piece of the password when that has an unescaped `/` in it.
        raise ValueError("must have a number as its port, and a password with its / @ and : percent-encoded") from None
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", ["0"])[0]
    if not database.isdecimal():
        raise ValueError("must end in the number of a database, as in redis://host:6379/1")
    return RedisPlace(_host(url), port, int(database))


def with_redis_db(url: str, db: int) -> str:
    """Give the URL of another database of the same Redis."""
    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if part and not part.startswith("db="))
    return parts._replace(path=f"/{db}", query=query).geturl()


def sqlite_url(path: Path) -> str:
    """Give the SQLAlchemy URL of an SQLite file, absolute, so that a later chdir does not move it."""
    return f"sqlite:///{path.absolute()}"


def sqlite_file(url: str) -> Path | None:
    """Give the file of an SQLite URL, links resolved; None when the URL is not SQLite's or names no file."""
    if scheme(url).partition("+")[0] != "sqlite":
        return None
    name = url.partition("://")[2].partition("?")[0].removeprefix("/")
    return Path(name).resolve() if name and name != ":memory:" else None


def sqlalchemy_url(url: str) -> str:
    """Give the URL with what we rely on made explicit: the driver of PostgreSQL, an absolute path for SQLite."""
    file = sqlite_file(url)
    if file is None:
        return _POSTGRESQL.sub("postgresql+psycopg", url)
    return url.partition("://")[0] + f":///{file}" + "".join(url.partition("?")[1:])


def _host(url: str) -> str:
    """Give the host in lower case, every name of the loopback as 127.0.0.1."""
    host = (urlsplit(url).hostname or "localhost").lower()
    if host == "localhost":
        return "127.0.0.1"
    try:
        return "127.0.0.1" if ipaddress.ip_address(host).is_loopback else host
    except ValueError:
        return host
