"""What whoever runs the tests says about servers, by `LERN_TEST_*` variables.

They are taken out of the environment: the processes under test inherit it, and refuse `LERN_` names that are no
settings. `LERN_TEST_KAFKA` (host:port), `LERN_TEST_CASSANDRA` (host:port), `LERN_TEST_ELASTICSEARCH` and
`LERN_TEST_ELASTICSEARCH8` (URLs) name servers to be used in place of our own, and `start` asks for one of our own where
there would be none; `LERN_TEST_CACHE` the directory of the
JARs; `LERN_TEST_CASSANDRA_VERSION` the version of our own Cassandra.
"""

from collections.abc import MutableMapping
from typing import Final

PREFIX: Final = "LERN_TEST_"

_given: Final[dict[str, str]] = {}


def remember(environ: MutableMapping[str, str]) -> None:
    """Take every `LERN_TEST_*` variable out of an environment. Called once, before anything is started."""
    for name in [name for name in environ if name.startswith(PREFIX)]:
        _given[name.removeprefix(PREFIX)] = environ.pop(name)


def given(name: str) -> str | None:
    """Give the value of `LERN_TEST_<name>`; None where it is not set, or empty."""
    return _given.get(name) or None
