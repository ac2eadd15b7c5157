"""What becomes of the steps is told to Flower a few times a second, however many they are."""

from typing import Any

from kombu.asynchronous import Hub

from tasks.consumer import Consumer
from tests.bridges import until


class Dispatcher:
    """Counts how often events leave."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def consumer() -> tuple[Consumer, Dispatcher]:
    made = Consumer.__new__(Consumer)
    made.hub, made.event_dispatcher = Hub(), Dispatcher()  # type: ignore[no-untyped-call]
    return made, made.event_dispatcher


def fire(hub: Any) -> bool:
    hub.fire_timers()
    return not hub.timer.queue


def test_events_that_come_together_leave_together() -> None:
    worker, dispatcher = consumer()
    for times in (1, 2):
        for _ in range(100):
            worker.on_send_event_buffered()
        assert dispatcher.flushed == times - 1
        until(lambda: fire(worker.hub), "the events leave")
        assert dispatcher.flushed == times


def test_a_timer_that_was_forgotten_with_its_connection_keeps_no_event_back() -> None:
    worker, dispatcher = consumer()
    worker.on_send_event_buffered()
    worker.hub.timer.clear()

    def left() -> bool:
        worker.on_send_event_buffered()
        worker.hub.fire_timers()
        return dispatcher.flushed == 1

    until(left, "a later event takes it along")


def test_a_worker_that_stops_leaves_no_event_behind() -> None:
    worker, dispatcher = consumer()

    class Steps:
        def stop(self, _consumer: Consumer) -> None:
            assert dispatcher.flushed == 1

    worker.blueprint = Steps()
    worker.on_send_event_buffered()
    worker.stop()
    assert dispatcher.flushed == 1
