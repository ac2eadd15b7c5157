"""Outgoing events in files: whole lines, the bytes that Kafka would get, nothing confirmed that is not there."""

import multiprocessing
import resource
import signal
from pathlib import Path

import pytest

from lern.errors import Unreachable
from lern.outgoing import FileSender, OutgoingEvent

TOPIC = "dev.learning.events.failed"

spawn = multiprocessing.get_context("spawn")


def event(value: bytes, topic: str = TOPIC) -> OutgoingEvent:
    return OutgoingEvent(mid=value.decode("utf-8", "replace"), topic=topic, key=b"a key", value=value)


def test_each_event_is_one_line_of_its_topics_file_in_order(tmp_path: Path) -> None:
    sender = FileSender(tmp_path / "out")
    sender.send([event(b'{"n":1}'), event(b'{"n":2}', "dev.telemetry.raw"), event('{"n":"ü"}'.encode())])
    sender.send([event(b'{"n":4}')])
    assert (tmp_path / "out" / f"{TOPIC}.jsonl").read_bytes() == '{"n":1}\n{"n":"ü"}\n{"n":4}\n'.encode()
    assert (tmp_path / "out" / "dev.telemetry.raw.jsonl").read_bytes() == b'{"n":2}\n'


def test_nothing_to_send_writes_nothing(tmp_path: Path) -> None:
    FileSender(tmp_path / "out").send([])
    assert not (tmp_path / "out").exists()


def test_an_event_of_several_lines_becomes_one(tmp_path: Path) -> None:
    FileSender(tmp_path).send([event(b'{\n "n": "a\\nb"\n}')])
    assert (tmp_path / f"{TOPIC}.jsonl").read_bytes() == b'{  "n": "a\\nb" }\n'


@pytest.mark.parametrize("torn", [b'{"n":2', b"x" * 200_000], ids=["short", "long"])
@pytest.mark.parametrize("before", [b"", b'{"n":1}\n'], ids=["nothing before", "a line before"])
def test_a_line_that_was_left_incomplete_is_dropped(tmp_path: Path, before: bytes, torn: bytes) -> None:
    file = tmp_path / f"{TOPIC}.jsonl"
    file.write_bytes(before + torn)
    FileSender(tmp_path).send([event(b'{"n":3}')])
    assert file.read_bytes() == before + b'{"n":3}\n'


@pytest.mark.parametrize("topic", ["", ".", "..", "../elsewhere", "a/b", "a b", "a\0", "ü", "a" * 250])
def test_what_is_no_topics_name_is_refused_before_anything_is_written(tmp_path: Path, topic: str) -> None:
    with pytest.raises(ValueError, match="not a topic's name"):
        FileSender(tmp_path).send([event(b"{}"), event(b"{}", topic)])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(Unreachable, match=r"outgoing file cannot be reached: .*out"):
        FileSender(tmp_path / "out").send([event(b"{}")]).check()


def test_a_file_that_cannot_be_written_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / f"{TOPIC}.jsonl").mkdir()
    stuck, other = event(b"{}"), event(b"{}", "dev.telemetry.raw")
    sent = FileSender(tmp_path).send([stuck, other])
    assert sent.confirmed == (other,)
    assert [one for one, _ in sent.failed] == [stuck]


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    sender = spawn.Process(target=_send_until_full, args=(tmp_path,))
    sender.start()
    sender.join()
    assert sender.exitcode == 0
    assert (tmp_path / f"{TOPIC}.jsonl").read_bytes() == b'{"n":1}\n'
    FileSender(tmp_path).send([event(b'{"n":2}')])
    assert (tmp_path / f"{TOPIC}.jsonl").read_bytes() == b'{"n":1}\n{"n":2}\n'


def _send_until_full(directory: Path) -> None:
    """Send more than a file may hold: the kernel then writes a part of a line, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
    with pytest.raises(Unreachable):
        FileSender(directory).send([event(b'{"n":1}'), event(b'{"n":"' + b"x" * 100 + b'"}')]).check()


def test_several_processes_write_whole_lines_and_lose_none(tmp_path: Path) -> None:
    senders = [spawn.Process(target=_send_many, args=(tmp_path, name)) for name in "abc"]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    lines = (tmp_path / f"{TOPIC}.jsonl").read_bytes().splitlines()
    for name in "abc":
        assert [line for line in lines if line.startswith(name.encode())] == [_long(name, n) for n in range(50)]
    assert len(lines) == 150


def _send_many(directory: Path, name: str) -> None:
    sender = FileSender(directory)
    for n in range(0, 50, 5):
        sender.send([event(_long(name, n + i)) for i in range(5)])


def _long(name: str, n: int) -> bytes:
    return f"{name}{n:03}".encode() + b"." * 20_000
