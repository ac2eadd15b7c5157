"""A Kafka that lets in only whom it knows: sending, reading and the doctor go through TLS and a login."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from lern.doctor import kafka as kafka_doctor
from lern.errors import Unreachable
from lern.kafka import KafkaSender
from lern.outgoing import OutgoingEvent
from lern.settings import Settings
from tests.bridges import merges, surroundings, until
from tests.servers.kafka import PASSWORD, USER, Kafka
from tests.servers.redis import RedisServer
from tests.servers.server import Server

Variables = dict[str, str]


@pytest.fixture
def guarded(kafka: Server) -> Kafka:
    if not isinstance(kafka, Kafka):
        pytest.skip("only the tests' own Kafka has listeners with TLS")
    return kafka


def by_certificate(kafka: Kafka) -> Variables:
    return {
        "KAFKA_BOOTSTRAP": kafka.ssl_address,
        "KAFKA_SECURITY_PROTOCOL": "ssl",
        "KAFKA_SSL_CA": str(kafka.certificates.authority),
        "KAFKA_SSL_CERTIFICATE": str(kafka.certificates.client_certificate),
        "KAFKA_SSL_KEY": str(kafka.certificates.client_key),
    }


def by_password(kafka: Kafka) -> Variables:
    return {
        "KAFKA_BOOTSTRAP": kafka.sasl_ssl_address,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA": str(kafka.certificates.authority),
    }


def by_scram(kafka: Kafka) -> Variables:
    user, password = f"scram-{uuid.uuid4().hex}", uuid.uuid4().hex
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    wanted = UserScramCredentialUpsertion(user, info, password.encode())
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})
    admin.alter_user_scram_credentials([wanted])[user].result()
    scram = {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SASL_USERNAME": user, "KAFKA_SASL_PASSWORD": password}
    return {**by_password(kafka), **scram}


def settings(variables: Variables) -> Settings:
    return Settings.load({f"LERN_{name}": value for name, value in variables.items()})


LOGINS = [by_certificate, by_password, by_scram]


@pytest.mark.parametrize("login", LOGINS)
def test_an_event_goes_through_the_bridge_and_another_is_sent(
    guarded: Kafka, redis_server: RedisServer, tmp_path: Path, login: Callable[[Kafka], Variables]
) -> None:
    around = surroundings(guarded.address, redis_server.url, tmp_path)
    around.produce([*merges(3), b"no event"])
    let_in = settings(login(guarded))
    secured = ("kafka_bootstrap", *(field for field in Settings.model_fields if field.startswith("kafka_s")))
    with around.bridge(**{field: getattr(let_in, field) for field in secured}) as bridge:
        until(around.all_committed, "the bridge has read the topic")
    assert bridge.error is None
    assert len(around.runs()) == 3
    # The dead letter went out by the same way.
    assert len(around.announced()) == 1
    around.close()


@pytest.mark.parametrize("login", LOGINS)
def test_the_doctor_is_let_in_as_well(guarded: Kafka, login: Callable[[Kafka], Variables]) -> None:
    found = [one for one in kafka_doctor.examine(settings(login(guarded))) if one.name == "kafka"]
    assert [one.level for one in found] == ["ok"]


@pytest.mark.parametrize(
    ("what", "reason"),
    [("a wrong password", "Authentication failed"), ("a stranger's authority", "certificate verify failed")],
)
def test_whoever_is_not_let_in_waits_and_is_told_why(guarded: Kafka, what: str, reason: str) -> None:
    wrong = {"KAFKA_SASL_PASSWORD": "a guess"}
    if what == "a stranger's authority":
        wrong = {"KAFKA_SSL_CA": str(guarded.certificates.stranger)}
    given = settings({**by_password(guarded), **wrong})
    sender = KafkaSender(given, {"delivery.timeout.ms": 2_000})
    with pytest.raises(Unreachable, match=reason) as refused:
        sender.send([OutgoingEvent("mid", "topic", None, b"event")]).check()
    sender.close()
    assert "a guess" not in str(refused.value)
    [found] = kafka_doctor.examine(given)
    assert found.level == "problem"
    assert reason in found.detail
