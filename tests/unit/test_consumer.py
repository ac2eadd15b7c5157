"""What becomes of the steps is told to Flower a few times a second, however many they are."""

from typing import Any

import pytest
from celery import Celery
from celery.events.dispatcher import EventDispatcher
from celery.worker.consumer.events import Events
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


def test_a_worker_that_ends_leaves_no_event_behind() -> None:
    """Not even of the steps that ended while it was stopping."""
    worker, dispatcher = consumer()

    class Steps:
        def shutdown(self, _consumer: Consumer) -> None:
            assert dispatcher.flushed == 1

    worker.blueprint, worker._pending_operations = Steps(), []
    worker.on_send_event_buffered()
    worker.shutdown()
    assert dispatcher.flushed == 1


def test_events_that_wait_when_the_connection_breaks_are_handed_to_what_comes_after_it() -> None:
    app = Celery(broker="memory://")
    worker = Consumer.__new__(Consumer)
    worker.app, worker.hub, worker.hostname, worker.amqheartbeat = app, Hub(), "here", 0  # type: ignore[no-untyped-call]
    worker.controller = worker.pool = None
    worker.task_buckets = {}
    worker.connection_for_write = lambda **_: app.connection_for_write()
    step = Events(worker, task_events=True)
    step.start(worker)
    broken = worker.event_dispatcher

    def gone(*_: object, **__: object) -> None:
        raise ConnectionError

    broken.producer.publish = gone
    broken.send("task-succeeded", uuid="1")
    worker.on_close()
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EventDispatcher, "_publish", lambda _self, events, *_: sent.extend(e["uuid"] for e in events))
        step.start(worker)
    assert sent == ["1"]
