"""The doctor at real servers: what is there is found, what is missing is named, with what to do."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, Session
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from elasticsearch import Elasticsearch

from lern import doctor
from lern.doctor import cassandra, ledger, search
from lern.doctor import kafka as kafka_doctor
from lern.doctor.finding import Finding
from lern.doctor.kafka import READ, WRITTEN
from lern.errors import Refused, SettingsError
from lern.ledger import Ledger
from lern.search import open_search
from lern.settings import Settings
from lern.store import open_store
from lern.store.cassandra import CassandraStore
from tests.bridges import until
from tests.servers.cassandra import SUPERUSER
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


class Guarded:
    """A Cassandra that asks for a login, with our tables in the keyspace `lern`."""

    def __init__(self, directory: Path, server: Server, session: Session) -> None:
        self.directory, self.server, self.session = directory, server, session

    def role(self, name: str, *permissions: str) -> str:
        """Create a role; gives its password, which a URL has to have encoded."""
        password = f"p@ss:/ {name}"
        self.session.execute(f"""CREATE ROLE "{name}" WITH LOGIN = true AND PASSWORD = '{password}'""")
        for permission in permissions:
            self.session.execute(f'GRANT {permission} ON KEYSPACE lern TO "{name}"')
        return quote(password, safe="")

    def examined(self, login: str = "", options: str = "") -> list[Finding]:
        """Give what the doctor finds with this login in the URL."""
        url = f"cassandra://{login}{self.server.address}/lern{options}"
        return list(cassandra.examine(settings(self.directory, STORE_URL=url)))

    def problem(self, login: str = "", options: str = "") -> Finding:
        """Give the one problem that the doctor finds."""
        [found] = problems(self.examined(login, options))
        return found


@pytest.fixture
def guarded(tmp_path: Path, guarded_cassandra: Server) -> Iterator[Guarded]:
    host, _, port = guarded_cassandra.address.rpartition(":")
    login = PlainTextAuthProvider(SUPERUSER, SUPERUSER)
    with Cluster([host], port=int(port), auth_provider=login) as cluster:
        made = CassandraStore(f"cassandra://{SUPERUSER}:{SUPERUSER}@{guarded_cassandra.address}/lern")
        until(lambda: is_let_in(made), "the first role is there")
        made.create()
        made.close()
        yield Guarded(tmp_path, guarded_cassandra, cluster.connect())


def is_let_in(store: CassandraStore) -> bool:
    try:
        return bool(store.nodes())
    except Refused:
        return False


def test_a_cassandra_that_does_not_let_us_do_all_that_we_need_is_one_problem_with_what_to_do(guarded: Guarded) -> None:
    """All in one test: a server that asks for a login takes half a minute to start."""
    logins_that_are_refused(guarded)
    urls_that_cannot_be(guarded)
    roles_that_may_not(guarded)
    a_node_that_is_away(guarded)
    too_few_nodes(guarded)


def logins_that_are_refused(guarded: Guarded) -> None:
    password = guarded.role("known")
    for login, why in {
        "": "Remote end requires authentication",
        "known:wrong@": "Provided username known and/or password are incorrect",
        "stranger:wrong@": "Provided username stranger and/or password are incorrect",
    }.items():
        found = guarded.problem(login)
        assert found.detail.startswith("Cassandra refuses our login: ")
        assert why in found.detail
        assert not re.search("NoHostAvailable|code=|message=", found.detail)
        assert found.advice.startswith("mend user and password in LERN_STORE_URL")
    elsewhere = guarded.problem(f"known:{password}@", "?dc=elsewhere")
    assert "there is no data centre 'elsewhere'; the cluster has datacenter1" in elsewhere.detail


def urls_that_cannot_be(guarded: Guarded) -> None:
    """A password as it is, with its @ and /, and a user without one: told without the password."""
    for login in ("known:p@ss@", "known@"):
        found = guarded.problem(login)
        assert "USER:PASSWORD@" in found.detail
        assert "percent-encoded" in found.detail
        assert "ss@" not in found.detail
    with pytest.raises(SettingsError, match="percent-encoded") as refused:
        guarded.problem("known:p@ss:/word@")
    assert "word@" not in str(refused.value)


def roles_that_may_not(guarded: Guarded) -> None:
    ours = "user_content_consumption, user_enrolments, user_activity_agg, assessment_aggregator, course_batch"
    for name, given, lacking in (
        ("Lern-reader", ["SELECT"], "MODIFY"),
        ("writer", ["MODIFY"], "SELECT"),
        ("nobody", [], "SELECT or MODIFY"),
    ):
        password = guarded.role(name, *given)
        found = guarded.problem(f"{name}:{password}@")
        assert found.detail == f"we may not {lacking} {ours}"
        for statement in found.advice.partition("; or")[0].split("; "):
            guarded.session.execute(statement)
        well = guarded.examined(options=f"?user={name}&password={password}")
        assert {one.level for one in well} == {"ok"}
        assert "we may read and write the tables" in {one.detail for one in well}
    guarded.session.execute("REVOKE MODIFY ON KEYSPACE lern FROM writer")
    guarded.session.execute("GRANT MODIFY ON lern.user_enrolments TO writer")
    partly = guarded.problem(f"writer:{quote('p@ss:/ writer', safe='')}@")
    assert partly.detail == f"we may not MODIFY {ours.replace('user_enrolments, ', '')}"


def a_node_that_is_away(guarded: Guarded) -> None:
    """Cassandra has heard of it, and it takes connections, but does not say a word: one of a cluster that goes on."""
    with socket.create_server(("127.0.0.2", 0)) as silent:
        port = silent.getsockname()[1]
        guarded.session.execute(
            "INSERT INTO system.peers_v2 (peer, peer_port, data_center, host_id, native_address, native_port, rack, "
            "release_version, schema_version, tokens) "
            "VALUES ('127.0.0.2', 1, 'datacenter1', uuid(), '127.0.0.2', %s, 'rack1', '5.0.5', uuid(), {'1'})",
            [port],
        )
        found = guarded.examined(f"{SUPERUSER}:{SUPERUSER}@", "?connect_timeout=1")
    assert problems(found) == []
    [away] = [one for one in found if one.level == "warning"]
    assert away.detail == f"Cassandra's node 127.0.0.2:{port} does not answer"
    guarded.session.execute("DELETE FROM system.peers_v2 WHERE peer = '127.0.0.2' AND peer_port = 1")


def too_few_nodes(guarded: Guarded) -> None:
    guarded.session.execute(
        "ALTER KEYSPACE lern WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3}"
    )
    found = guarded.problem(f"{SUPERUSER}:{SUPERUSER}@")
    assert found.detail == (
        f"store cannot be reached: {guarded.server.address}: Cannot achieve consistency level LOCAL_QUORUM "
        "(1 of 2 nodes that are needed are up)"
    )
    assert "the keyspace's replication" in found.advice


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


@pytest.mark.parametrize(("by", "level"), [(5, "warning"), (300, "problem")])
def test_a_cassandra_whose_clock_is_ahead_is_told_by_how_much_and_which_node(
    tmp_path: Path, cassandra_url: str, by: int, level: str
) -> None:
    """A server's clock cannot be set by us: the command's own is behind by as much, which is the same to both."""
    shifted = (
        "import time; now, now_ns = time.time, time.time_ns; "
        f"time.time = lambda: now() - {by}; time.time_ns = lambda: now_ns() - {by} * 10**9; "
        "from lern.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", shifted, "doctor", "--json"],
        env={**os.environ, "LERN_DATA_DIR": str(tmp_path), "LERN_STORE_URL": cassandra_url},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [one for one in json.loads(done.stdout) if one["name"] == "clock" and "Cassandra" in one["detail"]]
    [clock] = found
    node = cassandra_url.removeprefix("cassandra://").partition("/")[0]
    assert clock["level"] == level
    assert re.fullmatch(rf"the clock here is (.*) behind that of Cassandra's node {node}", clock["detail"])
    assert "NTP" in clock["advice"]
    assert done.returncode == (level == "problem")


def test_a_driver_that_is_missing_is_named_and_all_else_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in {"cassandra", "psycopg"} else find_spec(name))
    away = {"STORE_URL": "cassandra://127.0.0.1:1/lern", "LEDGER_URL": "postgresql://127.0.0.1:1/lern"}
    found = list(doctor.examine(settings(tmp_path, **away), "redis://127.0.0.1:1/0"))
    advice = [one.advice for one in problems(found) if one.name == "drivers"]
    assert advice == ["install lern[cassandra]", "install lern[postgresql]"]
    assert {"broker", "relations"} <= {one.name for one in found}


def test_what_came_of_a_slow_check_is_no_difference_of_clocks(tmp_path: Path, cassandra_url: str) -> None:
    found = []
    for one in cassandra.examine(settings(tmp_path, STORE_URL=cassandra_url)):
        found.append(one)
        time.sleep(0.4)
    [clock] = [one for one in found if one.name == "clock"]
    assert clock.level == "ok"


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
