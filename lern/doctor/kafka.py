"""Checks of Kafka: the cluster answers, our topics are there, and we may read and write them."""

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
    yield Finding("kafka", "ok", f"cluster {cluster.cluster_id}, {len(cluster.brokers)} brokers")
    wanted = {settings.topic(name): name in READ for name in (*READ, *WRITTEN)}
    there = [name for name in wanted if name in cluster.topics and cluster.topics[name].error is None]
    for name in wanted:
        if name not in there:
            advice = f"create it: kafka-topics --create --topic {name}"
            yield Finding("topic", "problem", f"{name} is not there", advice)
    yield from _permissions(admin, {name: wanted[name] for name in there})


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
