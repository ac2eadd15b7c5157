"""Relations of collections, and the cached list of enrolments, in the keys that Sunbird gives them."""

import socket
import uuid
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lern.errors import BadRow, Unreachable
from lern.lms_cache import forget_enrolment_list
from lern.relations import Above, Relations
from lern.rules.progress import Relations as Nodes
from tests.servers.redis import RedisServer


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client(database=10) as opened:
        yield opened


@pytest.fixture
def relations(client: redis.Redis) -> Relations:
    return Relations(client)


@pytest.fixture
def course() -> str:
    return f"do_{uuid.uuid4().hex}"


def test_they_are_read_from_sunbirds_keys(relations: Relations, client: redis.Redis, course: str) -> None:
    client.sadd(f"{course}:{course}:leafnodes", "do_R1", "do_R2")
    client.sadd(f"{course}:{course}:optionalnodes", "do_R2")
    client.sadd(f"{course}:do_R1:ancestors", course, "do_unit")
    assert relations.leafnodes(course, course) == {"do_R1", "do_R2"}
    assert relations.nodes([(course, course)]) == [Nodes(frozenset({"do_R1", "do_R2"}), frozenset({"do_R2"}))]
    assert relations.ancestors_of(course, ["do_R1"]) == {"do_R1": {course, "do_unit"}}


def test_a_client_that_decodes_reads_the_same(redis_server: RedisServer, course: str) -> None:
    with redis.Redis.from_url(redis_server.url, db=10, decode_responses=True) as decoding:
        relations = Relations(decoding)
        relations.write(f"{course}:{course}:leafnodes", ["do_R1", "ü"])
        assert relations.leafnodes(course, course) == {"do_R1", "ü"}


def test_what_is_unknown_is_empty(relations: Relations, course: str) -> None:
    assert relations.leafnodes(course, course) == frozenset()
    assert relations.nodes([(course, "do_unit")]) == [Nodes(frozenset(), frozenset())]


def test_many_are_read_each_under_its_own_name(relations: Relations, course: str) -> None:
    contents = [f"do_R{n}" for n in range(1201)]
    for content in contents:
        relations.write(f"{course}:{content}:ancestors", [course, f"unit of {content}"])
    found = relations.ancestors_of(course, [*contents, "do_unknown", "do_R1"])
    assert found == {content: {course, f"unit of {content}"} for content in contents} | {"do_unknown": frozenset()}
    assert relations.nodes([]) == []


def test_what_is_above_many_contents_is_said_together_and_whether_it_is_all(relations: Relations, course: str) -> None:
    contents = [f"do_R{n}" for n in range(1201)]
    for number, content in enumerate(contents):
        relations.write(f"{course}:{content}:ancestors", [course, f"unit {number % 3}"])
    everything = frozenset({course, "unit 0", "unit 1", "unit 2"})
    relations.write("do_other:do_R1:ancestors", ["do_other"])
    asked = {"do_other": ["do_R1"], course: [*contents, "do_R1"], "do_none": []}
    of_others = {"do_other": Above(frozenset({"do_other"})), "do_none": Above()}
    assert relations.above(asked) == {course: Above(everything), **of_others}
    assert relations.above({course: [*contents, "do_unknown"]}) == {course: Above(everything, known=False)}
    assert relations.above({course: ["do_unknown"]}) == {course: Above(known=False)}


def test_writing_replaces_what_was_there(relations: Relations, client: redis.Redis, course: str) -> None:
    key = f"{course}:{course}:leafnodes"
    relations.write(key, ["do_R1", "do_R2"])
    relations.write(key, ["do_R3"])
    assert relations.leafnodes(course, course) == {"do_R3"}
    relations.write(key, [])
    assert client.exists(key) == 0


@pytest.mark.parametrize(
    "key", ["", "leafnodes", "course:leafnodes", ":x:leafnodes", "course::leafnodes", "a:b:others"]
)
def test_a_key_of_no_relation_is_not_written(relations: Relations, key: str) -> None:
    with pytest.raises(ValueError, match="not a relation's key"):
        relations.write(key, ["do_R1"])


def test_all_can_be_dumped_and_nothing_else_is(relations: Relations, client: redis.Redis, course: str) -> None:
    relations.write(f"{course}:{course}:leafnodes", ["do_R2", "do_R1"])
    relations.write(f"{course}:do_R1:ancestors", [course])
    client.set(f"{course}:do_unit:leafnodes", "no set")
    client.sadd(f"{course}:others", "of somebody else")
    dumped = {key: members for key, members in relations.dump() if key.startswith(course)}
    assert dumped == {f"{course}:{course}:leafnodes": ["do_R1", "do_R2"], f"{course}:do_R1:ancestors": [course]}
    client.delete(f"{course}:do_unit:leafnodes")


def test_a_key_that_holds_something_else_is_named(relations: Relations, client: redis.Redis, course: str) -> None:
    client.set(f"{course}:{course}:leafnodes", "no set")
    with pytest.raises(BadRow, match=f"relations '{course}:.*leafnodes'.*something else than a SET"):
        relations.leafnodes(course, course)


def test_the_cached_list_of_enrolments_is_forgotten(client: redis.Redis) -> None:
    user = f"user-{uuid.uuid4()}"
    client.set(f"{user}:user-enrolments", "[...]")
    client.set(f"{user}:others", "kept")
    forget_enrolment_list(client, user)
    forget_enrolment_list(client, user)
    assert client.exists(f"{user}:user-enrolments") == 0
    assert client.exists(f"{user}:others") == 1


def test_a_redis_that_does_not_answer_is_waited_for(course: str) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        nobody = redis.Redis(port=deaf.getsockname()[1], retry=Retry(NoBackoff(), 0))
        with pytest.raises(Unreachable, match="relations cannot be reached"):
            Relations(nobody).leafnodes(course, course)
        with pytest.raises(Unreachable, match="lms cache cannot be reached"):
            forget_enrolment_list(nobody, "user")
