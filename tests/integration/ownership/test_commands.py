"""`lern ownership check` and `lern migrate --create-index` against a real Elasticsearch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lern.cli import app
from lern.ledger import NewRun
from lern.search.elasticsearch import ElasticsearchSearch
from lern.services import Services
from lern.settings import Settings
from lern.store.tables import COURSE_BATCH
from tests.batches import OTHER, SOURCE, TARGET, batch, document
from tests.integration.ownership.conftest import INDEX
from tests.servers.server import Server


class Commands:
    """Calls commands with settings of their own: an embedded store, and whatever search a test names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, search_url: str) -> None:
        self._monkeypatch = monkeypatch
        self.set("DATA_DIR", str(directory))
        self.set("SEARCH_URL", search_url)

    def set(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(f"LERN_{name}", value)

    def __call__(self, *arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def well(self, *arguments: str) -> str:
        result = self(*arguments)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def fails(self, code: int, *arguments: str) -> str:
        """Give what a command that ends with a code has said, in one line."""
        result = self(*arguments)
        assert result.exit_code == code, result.output
        [line] = result.stderr.splitlines()
        return line

    def checked(self, *arguments: str) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in json.loads(self("ownership", "check", SOURCE, "--json", *arguments).stdout)}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elasticsearch: Server) -> Iterator[Commands]:
    yield Commands(monkeypatch, tmp_path, elasticsearch.address)
    search = ElasticsearchSearch(elasticsearch.address)
    search._client.indices.delete(index=INDEX, ignore_unavailable=True)
    search.close()


@pytest.fixture
def services(commands: Commands) -> Iterator[Services]:
    """The stores of a user who owns three batches; the documents of one lag, of one are lost, and two have no batch."""
    commands.well("migrate", "--create-index")
    services = Services(Settings.load())
    same, lags, lost, ahead = batch(1), batch(2), batch(3), batch(4, createdby=OTHER)
    services.store.insert(COURSE_BATCH, [same, lags, lost, ahead])
    documents = [same, {**lags, "createdby": OTHER}, {**ahead, "createdby": SOURCE}, batch(5)]
    services.search.insert(map(document, documents))
    yield services
    services.search.close()
    services.store.close()


def test_the_index_is_created_with_its_mapping_and_once(commands: Commands, elasticsearch: Server) -> None:
    said = commands.well("migrate", "--create-index")
    assert f"index {INDEX} created  {elasticsearch.address}" in said
    search = ElasticsearchSearch(elasticsearch.address)
    fields = search._client.indices.get_mapping(index=INDEX)[INDEX]["mappings"]["properties"]
    assert all("raw" in fields[name]["fields"] for name in ("batchId", "createdBy", "mentors"))
    assert fields["status"]["type"] == "long"
    search.insert([document(batch(1))])
    assert f"index {INDEX} is there  {elasticsearch.address}" in commands.well("migrate", "--create-index")
    assert list(search.read(["Batch-00001"])) == ["Batch-00001"]
    search.close()


def test_where_the_stores_disagree_is_told_and_nothing_is_changed(commands: Commands, services: Services) -> None:
    before = {one.id: one for one in services.search.scan()}
    advice = (
        "lern: the stores disagree on 4 batches; --repair has 2 documents follow; "
        "--repair cannot mend 2 batches of one store alone"
    )
    assert commands.fails(1, "ownership", "check", SOURCE) == advice
    found = {name: (row["database"], row["search"], row["agree"]) for name, row in commands.checked().items()}
    assert found == {
        "Batch-00001": (["creator"], ["creator"], True),
        "Batch-00002": (["creator"], [], False),
        "Batch-00003": (["creator"], None, False),
        "Batch-00004": ([], ["creator"], False),
        "Batch-00005": (None, ["creator"], False),
    }
    assert {one.id: one for one in services.search.scan()} == before


def test_who_owns_nothing_is_told_so(commands: Commands, services: Services) -> None:
    assert services.settings.search_url is not None
    told = commands("ownership", "check", "user-nobody")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "user-nobody creates or mentors no batch\n")


def test_repair_has_the_index_follow_the_database(commands: Commands, services: Services) -> None:
    rows = {COURSE_BATCH.key_of(row): row for row in services.store.scan(COURSE_BATCH)}
    repaired = {name for name, row in commands.checked("--repair").items() if row["repaired"]}
    assert repaired == {"Batch-00002", "Batch-00004"}
    creators = {one.id: one.fields["createdBy"] for one in services.search.scan()}
    assert creators == {"Batch-00001": SOURCE, "Batch-00002": SOURCE, "Batch-00004": OTHER, "Batch-00005": SOURCE}
    assert {COURSE_BATCH.key_of(row): row for row in services.store.scan(COURSE_BATCH)} == rows
    said = commands.fails(1, "ownership", "check", SOURCE, "--repair")
    assert said == "lern: the stores disagree on 2 batches; --repair cannot mend 2 batches of one store alone"
    services.search.insert([document(batch(3))])
    services.search.remove(["Batch-00005"])
    assert "they disagree" not in commands.well("ownership", "check", SOURCE)


def test_a_dry_run_tells_what_changes_hands_from_what_only_follows_or_stays(
    commands: Commands, services: Services
) -> None:
    """The target was merged meanwhile; and of what the dry run says, the transfer does all."""
    unknown = batch(6, status=None)
    services.store.insert(COURSE_BATCH, [unknown])
    services.ledger.enter([NewRun("m", "merge", ("s",), TARGET, "Final", b"{}", 1, merge=True)], [], 1)
    result = commands("transfer", SOURCE, TARGET, "--dry-run")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["Batch-00001", "Batch-00002", "Batch-00003"]
    assert result.stderr.splitlines() == [
        "named by their documents alone, which follow them: Batch-00004",
        "documents without a batch, left as they are: Batch-00005",
        "batches without a status, left as they are: Batch-00006",
        f"3 batches would go from {SOURCE} to Final, into which {TARGET} was merged; nothing was changed",
    ]
    said = commands.fails(1, "transfer", "Final", TARGET, "--dry-run")
    assert said == f"lern: {TARGET} has been merged into Final, whose batches these are already"


def test_an_alias_in_the_index_s_place_is_there(commands: Commands, elasticsearch: Server) -> None:
    search = ElasticsearchSearch(elasticsearch.address, "behind")
    search.create()
    search._client.indices.put_alias(index="behind", name=INDEX)
    try:
        assert f"index {INDEX} is there  {elasticsearch.address}" in commands.well("migrate", "--create-index")
    finally:
        search._client.indices.delete(index="behind")
        search.close()


def test_without_the_index_it_is_said_who_creates_it(commands: Commands) -> None:
    said = commands.fails(1, "ownership", "check", SOURCE)
    assert said == f"lern: search has no index {INDEX}: `lern migrate --create-index` creates it"


@pytest.mark.parametrize("arguments", [("ownership", "check", SOURCE), ("migrate", "--create-index")])
def test_a_server_that_is_away_is_named(commands: Commands, arguments: tuple[str, ...]) -> None:
    commands.set("SEARCH_URL", "http://127.0.0.1:1")
    said = commands.fails(1, *arguments)
    assert said.startswith("lern: search cannot be reached: ")
    assert "LERN_SEARCH_URL says where it is" in said


def test_without_a_search_of_its_own_there_is_nothing_to_create_or_to_repair(commands: Commands) -> None:
    commands.set("SEARCH_URL", "")
    assert "LERN_SEARCH_URL is not set, and no index is needed" in commands.well("migrate", "--create-index")
    checked = commands("ownership", "check", SOURCE)
    assert checked.exit_code == 0
    assert "LERN_SEARCH_URL is not set" in checked.stderr
    assert "LERN_SEARCH_URL is not set" in commands.fails(2, "ownership", "check", SOURCE, "--repair")


@pytest.mark.parametrize("user", ["", " ", "u\0", "u" * 300])
def test_what_is_no_id_is_refused(commands: Commands, user: str) -> None:
    assert commands.fails(2, "ownership", "check", user).startswith("lern: USER: ")


def test_an_index_that_takes_no_writes_is_named(commands: Commands, services: Services) -> None:
    search = services.search
    assert isinstance(search, ElasticsearchSearch)
    search._client.indices.put_settings(index=INDEX, settings={"index.blocks.read_only_allow_delete": True})
    said = commands.fails(1, "ownership", "check", SOURCE, "--repair")
    assert said.startswith(f"lern: search takes no more work at the moment: {INDEX} is read-only ")
    assert "flood-stage" in said
