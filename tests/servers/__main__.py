"""Run one of the tests' servers by hand: `python -m tests.servers cassandra`, until Ctrl-C."""

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.servers.cassandra import Cassandra
from tests.servers.elasticsearch import Elasticsearch, Elasticsearch8
from tests.servers.given import PREFIX, remember
from tests.servers.jars import MissingError
from tests.servers.kafka import Kafka
from tests.servers.server import JavaServer

_ALL: Final[tuple[type[JavaServer], ...]] = (Kafka, Cassandra, Elasticsearch, Elasticsearch8)
_KINDS: Final = {kind.name: kind for kind in _ALL}


def main(arguments: list[str]) -> int:
    """Start the server, say where it is, and end it when told to."""
    if len(arguments) != 1 or arguments[0] not in _KINDS:
        sys.stderr.write(f"usage: python -m tests.servers {'|'.join(_KINDS)}\n")
        return 2
    remember(os.environ)
    kind = _KINDS[arguments[0]]
    ended = {signal.SIGINT, signal.SIGTERM}
    with tempfile.TemporaryDirectory(prefix=f"lern-{kind.name}-") as home:
        try:
            server = kind(Path(home))
            server.start()
        except MissingError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        # Only now: the process inherits what is blocked.
        signal.pthread_sigmask(signal.SIG_BLOCK, ended)
        sys.stdout.write(f"export {PREFIX}{kind.name.upper()}={server.address}\n")
        sys.stdout.flush()
        signal.sigwait(ended)
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
