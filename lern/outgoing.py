"""An event on its way out, as bytes, and nothing about how it is sent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """One message for Kafka. Planned and journalled before the rows that it announces, sent afterwards.

    `mid` is deterministic: sent twice (delivery is at least once), the event is recognised by it.
    `topic` is the full name, environment included. `key` is Kafka's partition key, None where the
    documents give none. `value` is the event's bytes, the same for every attempt.
    """

    mid: str
    topic: str
    key: bytes | None
    value: bytes
