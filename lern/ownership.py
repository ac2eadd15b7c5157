"""The batches of a user, found wherever they may be, and documents that follow the database.

The database is the truth. Search is asked besides it, because a document may still name a user whom its batch no
longer does; and the whole of the database is gone through, because documents lag and get lost.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from lern.errors import Refused, Unsettled
from lern.lms import LmsSearch
from lern.rules.ownership import COLUMNS, document_roles, follows, is_named, mentors_of, roles, wanted
from lern.search.base import Document, Search, Update
from lern.store.base import Store
from lern.store.tables import COURSE_BATCH, Key, Row
from lern.users import check_transfer

if TYPE_CHECKING:
    from lern.services import Services

# How often a document is read again that somebody else writes as fast as we do.
ROUNDS: Final = 10
_READ: Final = (*COLUMNS, "status", "name")
_AT_ONCE: Final = 500

Progress = Callable[[float], None]
Found = list[tuple[Key, Row]]


class Finding(Protocol):
    """Somebody to ask for the documents of a user's batches: search itself, or lms-service."""

    def owned_by(self, user: str, statuses: Collection[int] | None = None) -> Iterable[Document]:
        """Give the documents that name the user."""


def nobody_watches(_done: float) -> None:
    """Show no progress."""


@dataclass
class Finder:
    """Finds the batches that are to change hands.

    `batch`: only this one, if it is the source's. `planned`: batches that need not be found by their documents.
    """

    store: Store
    searches: Sequence[Finding]
    source: str
    statuses: Collection[int]
    batch: str | None = None
    planned: Collection[Key] = ()
    orphans: dict[str, None] = field(default_factory=dict)
    """Documents without a batch, by id, once everything was found."""
    without_status: list[str] = field(default_factory=list)
    """Batches of the source's, by id, of which nobody knows whether they are to change hands."""

    def bunches(self, size: int, progress: Progress = nobody_watches) -> Iterator[Found]:
        """Give batches, each once, in bunches of at most `size`, with what stands in the database.

        `progress` is told how much of the database (0 to 1) has been gone through.
        """
        seen = set(self.planned)
        bunch: Found = []
        for key, row in self._all(seen, progress):
            bunch.append((key, row))
            if len(bunch) == size:
                yield bunch
                bunch = []
        if bunch:
            yield bunch

    def _all(self, seen: set[Key], progress: Progress) -> Iterator[tuple[Key, Row]]:
        for part in self.store.parts(COURSE_BATCH, _READ):
            for row in part.rows:
                if wanted(row, self.source, self.statuses, self.batch):
                    key = COURSE_BATCH.key_of(row)
                    seen.add(key)
                    yield key, row
                elif "status" not in row and is_named(row, self.batch) and roles(row, self.source):
                    self.without_status.append(row["batchid"])
            progress(part.done)
        for search in self.searches:
            yield from self._by_documents(search, seen)

    def _by_documents(self, search: Finding, seen: set[Key]) -> Iterator[tuple[Key, Row]]:
        """Give what only documents know of: their batch has changed hands before, and they have to follow it."""
        pending: list[Document] = []
        for document in search.owned_by(self.source, self.statuses):
            if self.batch not in {None, document.id} or document.key in seen:
                continue
            pending.append(document)
            if len(pending) == _AT_ONCE:
                yield from self._standing(pending, seen)
                pending = []
        yield from self._standing(pending, seen)

    def _standing(self, documents: Sequence[Document], seen: set[Key]) -> Iterator[tuple[Key, Row]]:
        keys = [key for document in documents if (key := document.key) is not None]
        rows = self.store.read(COURSE_BATCH, keys)
        for document in documents:
            row = None if document.key is None else rows.get(document.key)
            if document.key is None or row is None:
                self.orphans[document.id] = None
            elif document.key not in seen and self._is_to_change(row):
                seen.add(document.key)
                yield document.key, row

    def _is_to_change(self, row: Row) -> bool:
        """Whether to touch a batch whose document is the source's: it may be so as well, and of another status."""
        return wanted(row, self.source, self.statuses, self.batch) or not roles(row, self.source)


def finding(services: "Services") -> list[Finding]:
    """Give whom to ask for documents. A search that is the store itself knows no more than the store."""
    found: list[Finding] = []
    if services.search.own:
        found.append(services.search)
    if services.settings.lms_url is not None:
        found.append(LmsSearch(services.settings.lms_url, services.settings.batch_search_api))
    return found


def check(services: "Services", source: str, target: str, final: str, organisation: str | None) -> None:
    """Make sure that a transfer may begin. Raises `Refused` with the reason, and as services and search do.

    `final`: where the target's account is now, if it was merged away.
    """
    if final == source:
        raise Refused(f"{target} has been merged into {source}, whose batches these are already")
    if services.users is not None:
        check_transfer(services.users, source, final, organisation)
    if services.search.own:
        services.search.check()


@dataclass(frozen=True)
class Followed:
    """What became of documents: how many were written, the batches (ids) without one, and those without a batch."""

    written: int
    missing: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


@dataclass(frozen=True)
class Follower:
    """Brings documents to where their batches are. `zone`: Sunbird's time zone."""

    store: Store
    search: Search
    zone: tzinfo

    def follow(self, keys: Sequence[Key], guard: Callable[[], None]) -> Followed:
        """Have the documents of some batches name those whom the batches name. Doing it again changes nothing.

        Raises `Unsettled` if they are written by others as fast as by us.
        """
        if not self.search.own:
            return Followed(0)
        written = 0
        waiting = list(keys)
        missing: list[str] = []
        alone: list[str] = []
        for _ in range(ROUNDS):
            behind = self._behind(waiting)
            missing += behind.missing
            alone += behind.alone
            done: Collection[str] = ()
            if behind.updates:
                guard()
                done = self.search.update(list(behind.updates.values()))
            written += len(done)
            waiting = [key for key, update in behind.updates.items() if update.document.id not in done]
            if not waiting:
                return Followed(written, tuple(missing), tuple(alone))
        raise Unsettled(f"{len(waiting)} documents are written by somebody else as fast as by us: {waiting[0][1]} …")

    def _behind(self, keys: Sequence[Key]) -> "_Behind":
        """Look which documents have to follow, and what stands in one store alone.

        The document is read before its batch: if the batch and then the document are changed after that, the version
        is no longer the document's, and ours is refused.
        """
        documents = self.search.read([batch for _, batch in keys])
        rows = self.store.read(COURSE_BATCH, keys)
        behind = _Behind()
        for key in keys:
            document, row = documents.get(key[1]), rows.get(key)
            if document is not None and document.key not in {None, key}:
                document = None
            if row is not None and document is not None:
                if fields := follows(document.fields, row, self.zone):
                    behind.updates[key] = Update(document, fields)
            elif row is not None:
                behind.missing.append(key[1])
            elif document is not None:
                behind.alone.append(key[1])
        return behind


@dataclass(frozen=True)
class _Behind:
    """The updates that documents need, the batches (ids) without a document, and the documents without a batch."""

    updates: dict[Key, Update] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Owned:
    """One batch that a user has to do with, in both stores. `row` None: no such batch; `document` None: none."""

    key: Key
    row: Row | None
    document: Document | None

    @property
    def agree(self) -> bool:
        """Whether both say the same of who creates and who mentors."""
        if self.row is None or self.document is None:
            return False
        fields = self.document.fields
        theirs = (fields.get("createdBy"), mentors_of(fields))
        return theirs == (self.row.get("createdby"), self.row.get("mentors", []))

    def roles(self, user: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Give what the user is by the database, and by the document."""
        by_row = () if self.row is None else roles(self.row, user)
        by_document = () if self.document is None else document_roles(self.document.fields, user)
        return by_row, by_document


def owned(store: Store, search: Search, user: str, progress: Progress = nobody_watches) -> Iterator[Owned]:
    """Give every batch, of whatever status, that names the user in either store."""
    seen: set[Key] = set()
    for part in store.parts(COURSE_BATCH, _READ):
        rows = {COURSE_BATCH.key_of(row): row for row in part.rows if roles(row, user)}
        seen |= rows.keys()
        yield from _beside(rows, search)
        progress(part.done)
    if search.own:
        yield from _only_documents(store, search, user, seen)


def _beside(rows: Mapping[Key, Row], search: Search) -> Iterator[Owned]:
    if not search.own:
        # The row is the document.
        for key, row in rows.items():
            fields = {"createdBy": row.get("createdby"), "mentors": row.get("mentors", [])}
            yield Owned(key, row, Document(key[1], fields, ()))
        return
    documents = search.read([batch for _, batch in rows]) if rows else {}
    for key, row in rows.items():
        document = documents.get(key[1])
        yield Owned(key, row, document if document is not None and document.key in {None, key} else None)


def _only_documents(store: Store, search: Search, user: str, seen: set[Key]) -> Iterator[Owned]:
    unseen = (document for document in search.owned_by(user) if document.key not in seen)
    while some := list(islice(unseen, _AT_ONCE)):
        rows = store.read(COURSE_BATCH, [document.key for document in some if document.key is not None])
        for document in some:
            key = document.key
            yield Owned(("", document.id), None, document) if key is None else Owned(key, rows.get(key), document)
