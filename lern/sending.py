"""Sending events; an announcement that its topic does not take goes without the event that it is about."""

from collections.abc import Sequence

from lern.events import without_original
from lern.outgoing import OutgoingEvent, Sender, Sent


def send(sender: Sender, events: Sequence[OutgoingEvent]) -> Sent:
    """Send events as they are, and as small as they can be where that is too large.

    An announcement has the same `mid` either way. What is too large then is too large in any form.
    """
    sent = sender.send(events)
    smaller = {event.mid: small for event in sent.too_large if (small := without_original(event)) is not None}
    if not smaller:
        return sent
    still = tuple((event, error) for event, error in sent.failed if event.mid not in smaller)
    return Sent(sent.confirmed, still) + sender.send(list(smaller.values()))
