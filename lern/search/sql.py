"""Documents without a search server: the rows of the store, seen as documents. The contract is in `lern.search.base`.

They cannot lag and cannot be missing. Works over every store.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import tzinfo
from typing import Any, Final

from lern.rules.ownership import document_roles, document_time, mentors_of
from lern.search.base import Document, Fields, Update
from lern.store.base import Store, Swap
from lern.store.tables import COURSE_BATCH, Row

# The columns that documents show here, by the names of their fields.
_FIELDS: Final = {"createdBy": "createdby", "mentors": "mentors", "name": "name", "status": "status"}
_COLUMNS: Final = (*_FIELDS.values(), "updated_date")


def _may() -> None:
    """Allow every write: what there is to lose is lost by the store, which asks for itself."""


class StoreSearch:
    """Batches as documents. `zone`: Sunbird's time zone."""

    own = False

    def __init__(self, store: Store, zone: tzinfo) -> None:
        """Take the store."""
        self._store, self._zone = store, zone

    def create(self) -> bool:
        """There is nothing to create besides the store's tables."""
        return False

    def check(self) -> None:
        """Reach the store."""
        self._store.check()

    def owned_by(self, user: str, statuses: Collection[int] | None = None) -> Iterator[Document]:
        """Look through all batches."""
        for document in self.scan():
            is_asked_for = statuses is None or document.fields.get("status") in statuses
            if is_asked_for and document_roles(document.fields, user):
                yield document

    def read(self, ids: Collection[str]) -> dict[str, Document]:
        """Look through all batches: by the batch's id alone they cannot be asked for."""
        return {document.id: document for document in self.scan() if document.id in ids}

    def update(self, updates: Sequence[Update]) -> frozenset[str]:
        """Change the rows, if they still are what was read."""
        keys = {update.document.key: update for update in updates if update.document.key is not None}
        swaps = [Swap(key, dict(update.document.version), self._put(update)) for key, update in keys.items()]
        made = self._store.compare_and_set(COURSE_BATCH, swaps, _may) if swaps else frozenset()
        return frozenset(batch for _, batch in made)

    def scan(self) -> Iterator[Document]:
        """Read every batch."""
        for part in self._store.parts(COURSE_BATCH, _COLUMNS):
            yield from map(self._document, part.rows)

    def insert(self, documents: Iterable[Fields]) -> None:
        """Write batches."""
        self._store.insert(COURSE_BATCH, map(_row, documents))

    def remove(self, ids: Collection[str]) -> None:
        """Delete batches."""
        rows = self._store.read(COURSE_BATCH, [key for d in self.read(ids).values() if (key := d.key) is not None])
        with self._store.unit(_may) as unit:
            unit.remove(COURSE_BATCH, list(rows.values()))

    def close(self) -> None:
        """Leave the store open: it is not ours."""

    def _document(self, row: Row) -> Document:
        fields: dict[str, Any] = {"batchId": row["batchid"], "courseId": row["courseid"]}
        fields.update({field: row[column] for field, column in _FIELDS.items() if column in row})
        if "updated_date" in row:
            fields["updatedDate"] = document_time(row["updated_date"], self._zone)
        version = tuple((column, row.get(column)) for column in _COLUMNS)
        return Document(row["batchid"], fields, version)

    def _put(self, update: Update) -> Row:
        return {_FIELDS[field]: value for field, value in update.fields.items() if field in _FIELDS}


def _row(fields: Fields) -> Row:
    row = {column: fields[field] for field, column in _FIELDS.items() if fields.get(field) is not None}
    if "mentors" in row:
        row["mentors"] = mentors_of(fields)
    return {"courseid": fields["courseId"], "batchid": fields["batchId"], **row}
