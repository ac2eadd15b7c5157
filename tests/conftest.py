"""What every test relies on: no settings but its own, Ctrl-C that is heard, and Hypothesis without a clock."""

import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests.servers.given import remember

pytest_plugins = [
    "tests.servers.cassandra",
    "tests.servers.elasticsearch",
    "tests.servers.kafka",
    "tests.servers.postgres",
    "tests.servers.redis",
]

# The machine's load must not fail a property; in CI the same examples every time, so that a red build means a change.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)


def _forget_settings() -> None:
    """Keep the settings of whoever runs the tests out of them."""
    remember(os.environ)
    for name in [name for name in os.environ if name.startswith("LERN_")]:
        del os.environ[name]


def _keep_bytecode() -> None:
    """Have modules compiled once, not by each of the hundreds of processes that tests start, whoever forbids it."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


# Now, not when pytest is configured: the next conftest imports what reads the settings.
_forget_settings()
_keep_bytecode()


def pytest_configure(config: pytest.Config) -> None:
    """Choose how Hypothesis looks for examples, and let Ctrl-C be heard."""
    # A shell has its background jobs ignore it, and so would every program that a test starts from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile(config.getoption("hypothesis_profile", None) or ("ci" if os.environ.get("CI") else "local"))
