"""Course batches to transfer: rows as lms-service writes them, documents as it indexes them, and where both are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from lern import events
from lern.ledger import Run
from lern.rules.ownership import document_time
from lern.search.base import Document, Search
from lern.services import Services
from lern.store.tables import COURSE_BATCH, Key, Row
from tests.acceptance.place import EVENT_TIME, Place
from workflows.intake import Message, take_in

DAY = 1_690_000_000_000
ZONE = ZoneInfo("Asia/Kolkata")
SOURCE, TARGET, OTHER, ORG = "User-Source", "User-Target", "user-other", "01269878797503692810"
UPDATED = document_time(EVENT_TIME, ZONE)


def batch(number: int, **columns: Any) -> Row:
    """A batch of the source's, ongoing, unless `columns` say otherwise; None takes a column away."""
    row: Row = {
        "courseid": f"do_course_{number % 7}",
        "batchid": f"Batch-{number:05}",
        "name": f"Batch {number}",
        "description": f"of {SOURCE}, created by {SOURCE}",
        "createdby": SOURCE,
        "createdfor": [ORG],
        "mentors": [OTHER],
        "enrollmenttype": "open",
        "status": number % 2,
        "created_date": DAY,
        "start_date": DAY,
        "updated_date": DAY + number,
    }
    return {column: value for column, value in {**row, **columns}.items() if value is not None}


def document(row: Row, **fields: Any) -> dict[str, Any]:
    """A batch's document, as lms-service indexes it."""
    result = {
        "id": row["batchid"],
        "identifier": row["batchid"],
        "batchId": row["batchid"],
        "courseId": row["courseid"],
        "name": row.get("name"),
        "description": row.get("description"),
        "createdBy": row.get("createdby"),
        "createdFor": row.get("createdfor"),
        "mentors": row.get("mentors"),
        "enrollmentType": row.get("enrollmenttype"),
        "status": row.get("status"),
        "createdDate": document_time(DAY, ZONE),
        "updatedDate": document_time(row.get("updated_date", DAY), ZONE),
        "startDate": "2023-07-22",
        "endDate": None,
        "enrollmentEndDate": None,
        "cert_templates": {},
    }
    return {**{name: value for name, value in result.items() if value is not None or name.endswith("Date")}, **fields}


def key_of(row: Row) -> Key:
    return COURSE_BATCH.key_of(row)


def transfer_event(source: str = SOURCE, target: str = TARGET, key: str = "m", **edata: Any) -> bytes:
    """A transfer event as userorg-service sends it."""
    event = events.ownership_request(source, target, ORG, EVENT_TIME, key)
    event["edata"].update(edata)
    return events.to_bytes(event)


@dataclass(frozen=True)
class World:
    """A place whose store and search are whatever the test is about."""

    place: Place

    @property
    def services(self) -> Services:
        return self.place.services

    @property
    def search(self) -> Search:
        return self.services.search

    def load(self, rows: Iterable[Row], documents: bool = True) -> None:
        """Write batches, and index them where documents are something of their own."""
        rows = list(rows)
        self.services.store.insert(COURSE_BATCH, rows)
        if documents and self.search.own:
            self.search.insert(map(document, rows))

    def enter(self, value: bytes) -> str:
        """Take in an event; returns the run's id."""
        taken = take_in(self.services, [Message(None, None, None, None, value)])
        assert taken.letters == (), taken.letters
        return taken.entered[0].run_id

    def transfer(self, **options: Any) -> Run:
        """Carry out a transfer as far as it goes."""
        return self.place.carry_out(self.enter(transfer_event(**options)))

    def succeed(self, **options: Any) -> Run:
        """Carry out a transfer to its end."""
        run = self.transfer(**options)
        assert run.state == "succeeded", run
        return run

    def row(self, row: Row) -> Row:
        """A batch as it stands in the database."""
        return self.services.store.read(COURSE_BATCH, [key_of(row)])[key_of(row)]

    def rows(self) -> dict[Key, Row]:
        """All batches in the database."""
        return {key_of(row): row for row in self.services.store.scan(COURSE_BATCH)}

    def document(self, row: Row) -> Document:
        """A batch's document as it stands."""
        return self.search.read([row["batchid"]])[row["batchid"]]

    def result(self, run: Run, step: str) -> Mapping[str, Any]:
        """What a step of a run came to."""
        return next(step_.result or {} for step_ in self.place.detail(run.id).steps if step_.name == step)

    def agree(self, rows: Iterable[Row]) -> None:
        """Hold every document against its batch."""
        standing = self.rows()
        rows = list(rows)
        documents = self.search.read([row["batchid"] for row in rows])
        for row in rows:
            now, fields = standing[key_of(row)], documents[row["batchid"]].fields
            assert fields.get("createdBy") == now.get("createdby"), row["batchid"]
            assert (fields.get("mentors") or []) == now.get("mentors", []), row["batchid"]
