"""Elasticsearch 7.17: one node, without security and the modules that nothing here needs."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest

from tests.servers.jars import fetched, filled
from tests.servers.server import JavaServer, Server, running

# A proxy in the environment is for the world, not for loopback.
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Elasticsearch(JavaServer):
    """A node. `address` is its URL."""

    name = "elasticsearch"
    heap = "512m"
    other_ports: ClassVar[tuple[str, ...]] = ("TRANSPORT_PORT",)

    def __init__(self, home: Path) -> None:
        """Choose ports. Raises `MissingError` if there is no JDK."""
        super().__init__(home)
        self.address = f"http://{self.address}"
        self._tmp = home / "tmp"
        self._tmp.mkdir()

    def arguments(self) -> list[str]:
        """Write the configuration."""
        unpacked = fetched("elasticsearch", unpack="*/elasticsearch/lib/**,*/elasticsearch/modules/**")
        distribution = next(unpacked.glob("*/elasticsearch"))
        config = self.home / "config"
        config.mkdir(exist_ok=True)
        settings = filled("elasticsearch.yml", DATA=self.data, HOME=self.home, **self.ports)
        (config / "elasticsearch.yml").write_text(settings)
        (config / "log4j2.properties").write_text(
            filled("elasticsearch-log4j2.properties", LOG=self.home / "server.log")
        )
        return [
            "-Xss1m",
            "-XX:MaxDirectMemorySize=128m",
            "-XX:-OmitStackTraceInFastThrow",
            "--add-opens=java.base/java.io=ALL-UNNAMED",
            f"-Djava.io.tmpdir={self._tmp}",
            # Kept from its native library, the server can neither lock memory nor notice that it runs as root, which
            # it refuses: containers build as root.
            "-Djna.nosys=true",
            "-Djna.noclasspath=true",
            "-Djava.locale.providers=SPI,COMPAT",
            "-Dio.netty.noUnsafe=true",
            "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0",
            "-Dio.netty.allocator.numDirectArenas=0",
            "-Dlog4j.shutdownHookEnabled=false",
            "-Dlog4j2.disable.jmx=true",
            "-Dlog4j2.formatMsgNoLookups=true",
            f"-Des.path.home={distribution}",
            f"-Des.path.conf={config}",
            "-Des.distribution.flavor=default",
            "-Des.distribution.type=tar",
            "-Des.bundled_jdk=false",
            "-cp",
            f"{distribution}/lib/*",
            "org.elasticsearch.bootstrap.Elasticsearch",
        ]

    def environment(self) -> dict[str, str]:
        """Give the environment; the server insists on a directory for the library that it is kept from."""
        return {**super().environment(), "LIBFFI_TMPDIR": str(self._tmp), "ES_TMPDIR": str(self._tmp)}

    def answers(self) -> bool:
        """Tell whether the cluster can take documents."""
        url = f"{self.address}/_cluster/health?wait_for_status=yellow&timeout=2s"
        try:
            with _DIRECT.open(url, timeout=5) as answer:
                return json.load(answer)["status"] in {"yellow", "green"}
        except OSError:
            return False


@pytest.fixture(scope="session")
def elasticsearch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one Elasticsearch of this test run. Tests take `elasticsearch`, which makes sure that it runs."""
    with running(Elasticsearch, tmp_path_factory.mktemp("elasticsearch")) as server:
        yield server


@pytest.fixture
def elasticsearch(elasticsearch_server: Server) -> Iterator[Server]:
    """Elasticsearch, running; a test may stop, kill and start it."""
    yield elasticsearch_server
    elasticsearch_server.start()
