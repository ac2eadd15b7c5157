"""Elasticsearch 7.17 and 8: one node each, without security and the modules that nothing here needs.

The tests' own is 7.17, which Sunbird has; what has to hold for both is tested on 8 as well.
"""

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest

from tests.servers.given import given
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
        config = self._configured()
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

    def _configured(self, more: str = "") -> Path:
        """Write the configuration; gives its directory."""
        config = self.home / "config"
        config.mkdir(exist_ok=True)
        settings = filled("elasticsearch.yml", DATA=self.data, HOME=self.home, **self.ports)
        (config / "elasticsearch.yml").write_text(settings + more)
        (config / "log4j2.properties").write_text(
            filled("elasticsearch-log4j2.properties", LOG=self.home / "server.log")
        )
        return config

    def answers(self) -> bool:
        """Tell whether the cluster can take documents."""
        url = f"{self.address}/_cluster/health?wait_for_status=yellow&timeout=2s"
        try:
            with _DIRECT.open(url, timeout=5) as answer:
                return json.load(answer)["status"] in {"yellow", "green"}
        except OSError:
            return False


class Elasticsearch8(Elasticsearch):
    """A node of version 8. A launcher starts it, and it ends with the launcher."""

    name = "elasticsearch8"
    # The launcher's. The server's stands in its own options.
    heap = "32m"
    _OPTIONS: ClassVar = ("-Xms512m", "-Xmx512m", "-XX:MaxDirectMemorySize=128m", "-XX:+UseSerialGC", "-Xss1m")

    def arguments(self) -> list[str]:
        """Write the configuration."""
        unpacked = fetched("elasticsearch8", unpack="*/elasticsearch/**")
        distribution = next(unpacked.glob("*/elasticsearch"))
        config = self._configured("xpack.security.enabled: false\n")
        for name in ("lib", "modules"):
            # The launcher looks for its own parts where it is started.
            if not (link := self.home / name).exists():
                link.symlink_to(distribution / name)
        options = (*self._OPTIONS, "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self._tmp}")
        (config / "jvm.options").write_text("".join(f"{option}\n" for option in options))
        return [
            "-Dcli.name=server",
            "-Dcli.script=bin/elasticsearch",
            "-Dcli.libs=lib/tools/server-cli",
            f"-Des.path.home={distribution}",
            f"-Des.path.conf={config}",
            "-Des.distribution.type=tar",
            "-cp",
            f"{distribution}/lib/*:{distribution}/lib/cli-launcher/*",
            "org.elasticsearch.launcher.CliToolLauncher",
        ]

    def environment(self) -> dict[str, str]:
        """Give the environment."""
        return {**super().environment(), "ES_PATH_CONF": str(self.home / "config")}

    def privileges(self) -> list[str]:
        """Be nobody where we are root, as which it refuses to run, with the right to open our files all the same."""
        if os.geteuid() != 0:
            return []
        # The last: access(2), by which Java asks first, would otherwise forget the right.
        may = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup")
        return ["--reuid=65534", "--regid=65534", "--clear-groups", *may]


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


@pytest.fixture(scope="session")
def elasticsearch8(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one Elasticsearch 8 of this test run, where one is asked for. Nobody stops it."""
    if given("ELASTICSEARCH8") is None:
        pytest.skip("Elasticsearch 8, which takes a minute more, is tested by `make versions`")
    with running(Elasticsearch8, tmp_path_factory.mktemp("elasticsearch8")) as server:
        yield server
