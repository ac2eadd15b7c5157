"""Where Cassandra is: `cassandra://h1,h2:9042/sunbird_courses?dc=...` taken apart."""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, unquote

from lern.errors import SettingsError

_PORT: Final = 9042
_URL: Final = re.compile(
    r"cassandra://(?:(?P<user>[^:@/]*):(?P<password>[^@/]*)@)?(?P<hosts>[^/?@]+)/(?P<keyspace>\w+)(?:\?(?P<query>.*))?"
)
_HOST: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?")
_CONSISTENCIES: Final = ("LOCAL_QUORUM", "QUORUM", "EACH_QUORUM", "ALL", "LOCAL_ONE", "ONE", "TWO", "THREE")


@dataclass(frozen=True)
class Place:
    """A cluster, a keyspace, and how to speak to them. Times in seconds; `tls` is None for plain text.

    `dc`: the data centre whose nodes are used; None: that of the first host that answers.
    """

    hosts: tuple[tuple[str, int], ...]
    keyspace: str
    dc: str | None
    user: str | None
    password: str | None
    consistency: str
    connect_timeout: float
    request_timeout: float
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str) -> Self:
        """Read a URL. Raises `SettingsError`, which never repeats a password."""
        parts = _URL.fullmatch(url)
        if parts is None:
            raise _wrong(
                "must be cassandra://HOST[:PORT][,HOST[:PORT]]/KEYSPACE?dc=DATACENTRE, with USER:PASSWORD@ before the "
                "hosts where there is a login, and their / @ and : percent-encoded"
            )
        options = _options(parts["query"] or "")
        return cls(
            hosts=tuple(_host(text) for text in parts["hosts"].split(",")),
            keyspace=parts["keyspace"].lower(),
            dc=options.get("dc"),
            user=options.get("user") or (unquote(parts["user"]) if parts["user"] else None),
            password=options.get("password") or (unquote(parts["password"]) if parts["password"] else None),
            consistency=_consistency(options.get("consistency", _CONSISTENCIES[0])),
            connect_timeout=_seconds(options, "connect_timeout", 5.0),
            request_timeout=_seconds(options, "request_timeout", 10.0),
            tls=_tls(options),
        )


def _wrong(problem: str) -> SettingsError:
    return SettingsError(f"LERN_STORE_URL {problem}")


def _options(query: str) -> Mapping[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _KNOWN):
        raise _wrong(f"has an unknown option {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    return {name: value for name, value in options.items() if value}


_KNOWN: Final = {
    "dc",
    "user",
    "password",
    "consistency",
    "connect_timeout",
    "request_timeout",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_hostname",
}


def _host(text: str) -> tuple[str, int]:
    parts = _HOST.fullmatch(text.strip())
    if parts is None:
        raise _wrong(f"has {text!r} where HOST or HOST:PORT was expected")
    return parts["v6"] or parts["name"], int(parts["port"] or _PORT)


def _consistency(text: str) -> str:
    if text.upper() not in _CONSISTENCIES:
        raise _wrong(f"asks for consistency {text!r}; one of {', '.join(_CONSISTENCIES)} was expected")
    return text.upper()


def _seconds(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(options.get(name, default))
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise _wrong(f"has {name}={options[name]!r}; a number of seconds above 0 was expected")
    return seconds


def _tls(options: Mapping[str, str]) -> ssl.SSLContext | None:
    """Give the context of TLS. The certificate is verified always, the host's name unless `tls_hostname=off`."""
    if not _switch(options, "tls", default="off"):
        if given := [name for name in options if name.startswith("tls_")]:
            raise _wrong(f"has {given[0]} without tls=on")
        return None
    return _read(lambda: _context(options))


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("tls_ca"))
    context.check_hostname = _switch(options, "tls_hostname", default="on")
    if "tls_cert" in options:
        context.load_cert_chain(options["tls_cert"], options.get("tls_key"))
    return context


def _read(context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    try:
        return context()
    except OSError as error:
        raise _wrong(f"names a certificate or key that cannot be used: {error}") from error


def _switch(options: Mapping[str, str], name: str, default: str) -> bool:
    value = options.get(name, default)
    if value not in {"on", "off"}:
        raise _wrong(f"has {name}={value!r}; on or off was expected")
    return value == "on"
