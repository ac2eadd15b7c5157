"""Checks of Kafka: the cluster answers, our topics are there, and we may read and write them, with our group.

How far its clock is from ours cannot be asked, and nothing depends on it.
"""

from collections.abc import Iterator
from typing import Any, Final

from lern.doctor.finding import PATIENCE, Finding
from lern.settings import Settings, Topic

READ: Final[tuple[Topic, ...]] = ("user_account_merge", "user_ownership_transfer")
WRITTEN: Final[tuple[Topic, ...]] = (
    "coursebatch_job_request",
    "issue_certificate_request",
    "telemetry_raw",
    "learning_events_failed",
)
# As many partitions as Sunbird's own topics have.
_HOW: Final = "--partitions 2 --bootstrap-server"


def examine(settings: Settings) -> Iterator[Finding]:
    """Check the cluster, then every topic. Asks for metadata only: nothing is read, written or created."""
    from confluent_kafka import KafkaException  # noqa: PLC0415 - a driver, imported where it is needed
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - as above

    from lern.kafka import Trouble, common_settings  # noqa: PLC0415 - as above

    # Its own log lines would say the same, once a second.
    trouble = Trouble()
    told: Any = {**common_settings(settings), "log_level": 0, "error_cb": trouble.note}
    admin: Any = AdminClient(told)
    try:
        cluster = admin.list_topics(timeout=PATIENCE)
    except KafkaException as error:
        # What was in the way is told only now.
        admin.poll(0)
        detail = f"{settings.kafka_bootstrap}: {trouble.told(error.args[0].str())}"
        yield Finding("kafka", "problem", detail, "start it, or mend LERN_KAFKA_BOOTSTRAP and the other LERN_KAFKA_…")
        return
    detail = f"cluster {cluster.cluster_id}, {len(cluster.brokers)} brokers, {_version(admin, min(cluster.brokers))}"
    yield Finding("kafka", "ok", detail)
    wanted = {settings.topic(name): name in READ for name in (*READ, *WRITTEN)}
    there = [name for name in wanted if name in cluster.topics and cluster.topics[name].error is None]
    for name in wanted:
        if name not in there:
            advice = f"create it: kafka-topics --create --topic {name} {_HOW} {settings.kafka_bootstrap}"
            yield Finding("topic", "problem", f"{name} is not there", advice)
    yield from _permissions(admin, {name: wanted[name] for name in there})
    yield _group(admin, settings.kafka_group_or_default)


def _permissions(admin: Any, topics: dict[str, bool]) -> Iterator[Finding]:
    """Check that we may read (True) or write (False) the topics. A broker that cannot say is taken at its word."""
    from confluent_kafka import KafkaException, TopicCollection  # noqa: PLC0415 - as above
    from confluent_kafka.admin._acl import AclOperation  # noqa: PLC0415 - as above

    if not topics:
        return
    asked = admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=PATIENCE
    )
    for name, reads in topics.items():
        needed = AclOperation.READ if reads else AclOperation.WRITE
        verb = "read" if reads else "write"
        try:
            found = asked[name].result(timeout=PATIENCE)
        except KafkaException as error:
            advice = f"allow us to describe and {verb} it"
            yield Finding("topic", "problem", f"{name}: {error.args[0].str()}", advice)
            continue
        allowed = found.authorized_operations
        if allowed and needed not in allowed:
            yield Finding("topic", "problem", f"we may not {verb} {name}", f"kafka-acls --add --operation {verb}")
        else:
            yield Finding("topic", "ok", f"{name}, {len(found.partitions)} partitions, we may {verb} it")


def _version(admin: Any, broker: int) -> str:
    """Give the version that the brokers speak among themselves; their own is not told to clients.

    Kafka 4 has no such setting any more, and whoever may not look at the brokers' settings is told nothing.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415 - as above
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415 - as above
    from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415 - as above

    asked = ConfigResource(ResourceType.BROKER, str(broker))
    try:
        found = admin.describe_configs([asked], request_timeout=PATIENCE)[asked].result(timeout=PATIENCE)
    except KafkaException:
        return "which do not tell us their version"
    protocol = found.get("inter.broker.protocol.version")
    return f"protocol {protocol.value}" if protocol is not None else "which do not tell their version"


def _group(admin: Any, group: str) -> Finding:
    """Check that we may read with the bridges' group."""
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - as above
    from confluent_kafka.admin._acl import AclOperation  # noqa: PLC0415 - as above

    advice = f"kafka-acls --add --operation read --group {group}"
    asked = admin.describe_consumer_groups([group], include_authorized_operations=True, request_timeout=PATIENCE)
    try:
        allowed = asked[group].result(timeout=PATIENCE).authorized_operations
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return Finding("group", "problem", f"we may not read with group {group}", advice)
        # A Kafka that nobody has ever read from makes what it needs for groups now.
        return Finding("group", "warning", f"{group}: {error.args[0].str()}", "ask once more in a minute")
    if allowed and AclOperation.READ not in allowed:
        return Finding("group", "problem", f"we may not read with group {group}", advice)
    return Finding("group", "ok", f"{group}, we may read with it")
