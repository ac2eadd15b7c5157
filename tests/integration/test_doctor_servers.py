"""The doctor at real servers: what is there is found, what is missing is named, with what to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lern.doctor import cassandra, search
from lern.doctor import kafka as kafka_doctor
from lern.doctor.finding import Finding
from lern.doctor.kafka import READ, WRITTEN
from lern.search import open_search
from lern.settings import Settings
from lern.store import open_store
from tests.servers.server import Server


def settings(tmp_path: Path, **given: str) -> Settings:
    return Settings.load({"LERN_DATA_DIR": str(tmp_path), **{f"LERN_{name}": value for name, value in given.items()}})


def problems(found: Sequence[Finding]) -> list[Finding]:
    return [one for one in found if one.level == "problem"]


def test_a_kafka_that_is_away_is_one_problem(tmp_path: Path) -> None:
    [found] = kafka_doctor.examine(settings(tmp_path, KAFKA_BOOTSTRAP="127.0.0.1:1"))
    assert found.level == "problem"
    assert "LERN_KAFKA_BOOTSTRAP" in found.advice


def test_topics_that_are_missing_are_named_and_those_that_are_there_may_be_used(tmp_path: Path, kafka: Server) -> None:
    here = settings(tmp_path, KAFKA_BOOTSTRAP=kafka.address, ENV="doctor")
    admin: Any = AdminClient({"bootstrap.servers": kafka.address})
    there = [here.topic(name) for name in (*READ, *WRITTEN)][1:]
    for created in admin.create_topics([NewTopic(name, 1) for name in there]).values():
        created.result(30)
    found = list(kafka_doctor.examine(here))
    [missing] = problems(found)
    assert missing.detail == "doctor.lms.user.account.merge is not there"
    assert "kafka-topics --create" in missing.advice
    well = [one.detail for one in found if one.name == "topic" and one.level == "ok"]
    assert len(well) == len(there)


def test_a_cassandra_with_our_tables_is_well(tmp_path: Path, cassandra_url: str) -> None:
    found = list(cassandra.examine(settings(tmp_path, STORE_URL=cassandra_url)))
    assert problems(found) == []
    assert {one.name for one in found} == {"store", "clock"}


def test_a_cassandra_without_a_table_says_which(tmp_path: Path, cassandra_url: str) -> None:
    here = settings(tmp_path, STORE_URL=cassandra_url, TABLE_USER_ENROLMENTS="no_such_table")
    [missing] = problems(list(cassandra.examine(here)))
    assert "no_such_table" in missing.detail


def test_an_elasticsearch_with_the_index_is_well(tmp_path: Path, elasticsearch: Server) -> None:
    here = settings(tmp_path, SEARCH_URL=elasticsearch.address, STORE_URL=f"sqlite:///{tmp_path}/rows.sqlite")
    found = open_search(here, open_store(here))
    found.create()
    assert problems(list(search.examine(here))) == []
    found.close()


def test_an_elasticsearch_that_is_away_is_one_problem(tmp_path: Path) -> None:
    [found] = search.examine(settings(tmp_path, SEARCH_URL="http://127.0.0.1:1"))
    assert found.level == "problem"
    assert "LERN_SEARCH_URL" in found.advice
