"""The contract of search: what every implementation promises about the documents of course batches.

A document is what Sunbird's lms-service writes for a batch, under the batch's id, and what its pages show. It is
written after the database, whole, and sometimes not at all: documents lag and get lost.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from lern.store.tables import Key

Fields = dict[str, Any]

# The fields that are read. Of the others nothing is known here, and nothing is written to them.
FIELDS: Final = ("batchId", "courseId", "createdBy", "mentors", "name", "status", "updatedDate")


@dataclass(frozen=True)
class Document:
    """One document as it was read: those of `FIELDS` that it has. Any change of the document changes its `version`."""

    id: str
    fields: Fields
    version: tuple[Any, ...]

    @property
    def key(self) -> Key | None:
        """The batch's primary key in the database, None if the document does not say of which course it is."""
        course = self.fields.get("courseId")
        return (course, self.id) if isinstance(course, str) and course else None


@dataclass(frozen=True)
class Update:
    """Fields to be put into a document, if it still is of the version that was read. The others stay."""

    document: Document
    fields: Fields


class Search(Protocol):
    """The documents of course batches.

    Every method raises `Unreachable` when the server does not answer, `Overloaded` when it takes no more work at the
    moment (too many requests, a read-only index), `Transient` when a call failed that may be repeated, `Refused` when
    only a person can help (no such index, no permission). A process may fork: parent and child both go on, each with
    connections of its own.
    """

    own: bool
    """Whether documents stand by themselves. False: they are the rows of the store seen as documents."""

    def create(self) -> bool:
        """Create the index with its mapping if it is missing; True if it was."""

    def check(self) -> None:
        """Reach the server and the index, and make sure that it can be searched and written to."""

    def owned_by(self, user: str, statuses: Collection[int] | None = None) -> Iterable[Document]:
        """Every document, however many, that names the user as creator or mentor, and was written before the call.

        Exactly this user: the index ignores case, the answer does not. `statuses`: of these alone.
        """

    def read(self, ids: Collection[str]) -> dict[str, Document]:
        """Read documents by id as they are at this moment; those that do not stand are not in the answer."""

    def update(self, updates: Sequence[Update]) -> frozenset[str]:
        """Put fields into documents; give the ids of those that were written.

        The others have changed since they were read, or are gone: read them again. Each by itself, atomically;
        none is created.
        """

    def scan(self) -> Iterable[Document]:
        """Every document, in bounded memory. For checks, never in a step."""

    def insert(self, documents: Iterable[Fields]) -> None:
        """Write whole documents, replacing those that stand, and wait until they are found. For loading and tests."""

    def remove(self, ids: Collection[str]) -> None:
        """Delete documents, and wait until they are found no more. For tests."""

    def close(self) -> None:
        """Give back connections."""
