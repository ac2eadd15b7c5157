"""Kafka in KRaft mode: one node, broker and controller in one process."""

import base64
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.certificates import Certificates
from tests.servers.jars import fetched, filled
from tests.servers.server import HOST, JavaServer, Server, ServerError, running

USER: Final = "lern"
PASSWORD: Final = "not in the log"


class Kafka(JavaServer):
    """A broker. `address` is host:port, for `bootstrap.servers`. Topics are not created by being used.

    Others are for who has a certificate (`ssl_address`), and for USER with PASSWORD (`sasl_ssl_address`).
    """

    name = "kafka"
    heap = "320m"
    other_ports: ClassVar[tuple[str, ...]] = ("CONTROLLER_PORT", "SSL_PORT", "SASL_SSL_PORT")

    def __init__(self, home: Path) -> None:
        """Choose ports and make certificates."""
        super().__init__(home)
        self.certificates = Certificates(home)
        self.ssl_address = f"{HOST}:{self.ports['SSL_PORT']}"
        self.sasl_ssl_address = f"{HOST}:{self.ports['SASL_SSL_PORT']}"

    def arguments(self) -> list[str]:
        """Write the configuration; the first time, format the storage."""
        properties, log4j = self.home / "server.properties", self.home / "log4j.properties"
        keys = {"CERTIFICATE": self.certificates.server, "AUTHORITY": self.certificates.authority}
        login = {"USER": USER, "PASSWORD": PASSWORD}
        properties.write_text(filled("kafka.properties", DATA=self.data, **self.ports, **keys, **login))
        log4j.write_text(filled("kafka-log4j.properties", LOG=self.home / "server.log"))
        base = [f"-Dlog4j.configuration=file:{log4j}", "-XX:MaxDirectMemorySize=128m", "-cp", f"{fetched('kafka')}/*"]
        if not (self.data / "meta.properties").exists():
            self._format([*base, "kafka.tools.StorageTool", "format", "-c", str(properties), "-t", _cluster_id()])
        return [*base, "kafka.Kafka", str(properties)]

    def answers(self) -> bool:
        """Tell whether the broker is a member of its own cluster: before that it knows no topics."""
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _format(self, arguments: list[str]) -> None:
        command = self.java_command(arguments, heap="128m")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"kafka's storage could not be formatted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _cluster_id() -> str:
    # It must not look like an option.
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one Kafka of this test run. Tests take `kafka`, which makes sure that it runs."""
    with running(Kafka, tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def kafka(kafka_server: Server) -> Iterator[Server]:
    """Kafka, running; a test may stop, kill and start it."""
    yield kafka_server
    kafka_server.start()
