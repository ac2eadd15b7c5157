"""Course batches through lms-service: `POST /v1/course/batch/search`.

It answers with thirty batches unless it is told otherwise, and with ten thousand at most.
"""

from collections.abc import Collection, Iterator
from typing import Any, Final

from lern.errors import Refused, Transient
from lern.rules.ownership import document_roles
from lern.search.base import FIELDS, Document
from lern.service_call import Service

# Limit and offset together.
MOST: Final = 10_000
_PAGE: Final = 1_000
_OK: Final = 200


class LmsSearch:
    """The batch search of lms-service. It finds; it cannot write documents."""

    def __init__(self, url: str, path: str) -> None:
        """Remember where it is."""
        self._service, self._path = Service("lms-service", url), path
        self.ended_early = False
        """Whether there was more than the service gives."""

    def owned_by(self, user: str, statuses: Collection[int] | None = None) -> Iterator[Document]:
        """Give the documents that name the user: as creator, then as mentor.

        Raises `Unreachable`, `Transient`, and `Refused` where the service refuses the question.
        """
        for field, value in (("createdBy", user), ("mentors", [user])):
            filters: dict[str, Any] = {field: value}
            if statuses is not None:
                filters["status"] = sorted(statuses)
            for document in self._pages(filters):
                # The service ignores case.
                if document_roles(document.fields, user):
                    yield document

    def _pages(self, filters: dict[str, Any]) -> Iterator[Document]:
        offset, total = 0, 1
        while offset < min(total, MOST):
            content, total = self._page(filters, offset)
            if not content and offset < total:
                raise Transient(f"lms-service says that it has {total} batches, and gives {offset}")
            for fields in content:
                if isinstance(fields, dict) and isinstance(batch := fields.get("batchId"), str):
                    yield Document(batch, fields, ())
            # It may give less at once than it is asked for.
            offset += len(content)
        self.ended_early |= total > MOST

    def _page(self, filters: dict[str, Any], offset: int) -> tuple[list[Any], int]:
        """Give some of what is found, and how much that is in all."""
        limit = min(_PAGE, MOST - offset)
        request = {
            "filters": filters,
            "fields": list(FIELDS),
            "limit": limit,
            "offset": offset,
            "sort_by": {"batchId": "asc"},
        }
        answer = self._service.call("POST", self._path, {"request": request})
        if answer.status != _OK:
            raise Refused(f"lms-service refuses the search: {answer.status} {answer.error} {answer.message}".rstrip())
        response = answer.result.get("response")
        found = response if isinstance(response, dict) else {}
        content, count = found.get("content"), found.get("count")
        if not isinstance(content, list) or not isinstance(count, int):
            raise Transient("lms-service answered a search without a list of batches and their number")
        return content, count
