"""The servers that the other tests rest on."""

import json
import urllib.request
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.servers import given, jars
from tests.servers.kafka import Kafka
from tests.servers.server import GivenServer, Server, running


def test_kafka_keeps_what_it_confirmed_when_it_is_killed(kafka: Server) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(30)
    producer = Producer({"bootstrap.servers": kafka.address, "acks": "all"})
    producer.produce("kept", b"one")
    assert producer.flush(30) == 0
    kafka.kill()
    kafka.start()
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "kept", "auto.offset.reset": "earliest"})
    consumer.subscribe(["kept"])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert message.value() == b"one"


def test_elasticsearch_finds_after_a_restart_what_it_was_given(elasticsearch: Server) -> None:
    document = f"{elasticsearch.address}/kept/_doc/1"
    _http("PUT", f"{document}?refresh=true", {"name": "one"})
    elasticsearch.stop()
    elasticsearch.start()
    assert _http("GET", document)["_source"] == {"name": "one"}


def test_a_server_that_is_named_is_used_and_never_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(given._given, "KAFKA", "kafka.example:9092")
    with running(Kafka, tmp_path) as server:
        assert isinstance(server, GivenServer)
        assert server.address == "kafka.example:9092"
        with pytest.raises(pytest.skip.Exception, match=r"kafka at kafka\.example:9092 is not the tests' own"):
            server.kill()


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_java_is_a_reason_to_skip_and_in_ci_a_failure(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(jars, "JAVA", "999")
    with pytest.raises(outcome, match="no Java 999"), running(Kafka, tmp_path):
        pass


def _http(method: str, url: str, body: object = None) -> dict[str, dict[str, str]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - loopback
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        result: dict[str, dict[str, str]] = json.load(answer)
    return result
