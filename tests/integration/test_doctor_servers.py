"""The doctor at real servers: what is there is found, what is missing is named, with what to do."""

import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from elasticsearch import Elasticsearch

from lern.doctor import cassandra, ledger, search
from lern.doctor import kafka as kafka_doctor
from lern.doctor.finding import Finding
from lern.doctor.kafka import READ, WRITTEN
from lern.ledger import Ledger
from lern.search import open_search
from lern.settings import Settings
from lern.store import open_store
from tests.bridges import until
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
    may = Finding("group", "ok", "doctor-lern-bridge, we may read with it")
    until(lambda: may in kafka_doctor.examine(here), "Kafka has what it needs for groups")
    [cluster] = [one for one in found if one.name == "kafka"]
    assert "protocol 3." in cluster.detail


def test_a_ledger_of_ours_is_well(tmp_path: Path, new_postgres_url: str) -> None:
    here = settings(tmp_path, LEDGER_URL=new_postgres_url)
    with closing(Ledger(new_postgres_url)) as made:
        made.migrate()
    found = list(ledger.examine(here))
    assert {one.level for one in found} == {"ok"}
    assert [one.name for one in found] == ["ledger", "ledger", "clock", "ledger"]
    assert found[0].detail.startswith("PostgreSQL 1")


def test_a_ledger_that_another_role_has_made_says_what_we_may_not(tmp_path: Path, new_postgres_url: str) -> None:
    with closing(Ledger(new_postgres_url)) as made:
        made.migrate()
    role = f"guest_{uuid.uuid4().hex}"
    engine = sa.create_engine(new_postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(sa.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
        for table in ("audit", "alembic_version"):
            connection.execute(sa.text(f"REVOKE ALL ON {table} FROM {role}"))
    as_guest = sa.make_url(new_postgres_url).set(username=role).render_as_string(hide_password=False)
    found = problems(list(ledger.examine(settings(tmp_path, LEDGER_URL=as_guest))))
    assert "SELECT audit" in found[0].detail
    assert "DELETE outbox" in found[0].detail
    assert "SELECT outbox" not in found[0].detail
    assert "GRANT" in found[0].advice
    assert "permission denied for table alembic_version" in found[1].detail
    engine.dispose()


def test_a_ledger_that_is_away_is_one_problem(tmp_path: Path) -> None:
    [found] = ledger.examine(settings(tmp_path, LEDGER_URL="postgresql://127.0.0.1:1/none"))
    assert found.level == "problem"
    assert "LERN_LEDGER_URL" in found.advice


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
    well = list(search.examine(here))
    assert problems(well) == []
    assert "clock" in {one.name for one in well}
    found.close()
    with closing(Elasticsearch(elasticsearch.address)) as client:
        client.indices.put_settings(index=search.INDEX, settings={"index.blocks.read_only_allow_delete": True})
        try:
            [blocked] = problems(list(search.examine(here)))
        finally:
            client.indices.put_settings(index=search.INDEX, settings={"index.blocks.read_only_allow_delete": None})
    assert "takes no writes: index.blocks.read_only_allow_delete" in blocked.detail


def test_an_elasticsearch_that_is_away_is_one_problem(tmp_path: Path) -> None:
    [found] = search.examine(settings(tmp_path, SEARCH_URL="http://127.0.0.1:1"))
    assert found.level == "problem"
    assert "LERN_SEARCH_URL" in found.advice
