"""Users as userorg-service knows them: `GET /private/user/v1/read/<id>`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from lern.errors import Refused, Transient
from lern.service_call import Service

# Said of a user who is deleted or blocked, with status 400.
BLOCKED: Final = "UOS_USRRED0006"

_OK, _BAD_REQUEST, _NOT_FOUND = 200, 400, 404
_ACTIVE: Final = 1


@dataclass(frozen=True)
class User:
    """A user: whether the account is active, and the organisations that it belongs to."""

    id: str
    active: bool
    organisations: frozenset[str]

    def belongs_to(self, organisation: str) -> bool:
        """Whether the user belongs to an organisation. Sunbird compares their ids without regard to case."""
        return organisation.casefold() in {one.casefold() for one in self.organisations}


class Users:
    """The user read API."""

    def __init__(self, url: str, path: str) -> None:
        """Remember where it is. `path`: that of the API, to which the user's id is appended."""
        self._service = Service("user and org service", url)
        self._path = path.rstrip("/") + "/"

    def read(self, user: str) -> User | None:
        """Give a user; None for one whose account has been deleted or blocked.

        Raises `Refused` for one whom the service does not know, `Unreachable` and `Transient`.
        """
        answer = self._service.call("GET", self._path + quote(user, safe=""))
        if answer.status == _BAD_REQUEST and answer.error == BLOCKED:
            return None
        if answer.status == _NOT_FOUND:
            raise Refused(f"user {user} is not known to the user and org service")
        if answer.status != _OK:
            raise Refused(f"user {user} cannot be read: {answer.status} {answer.error} {answer.message}".rstrip())
        response = answer.result.get("response")
        if not isinstance(response, dict):
            raise Transient(f"the user and org service says nothing of user {user}")
        found = response.get("identifier") or response.get("userId") or response.get("id")
        if found != user:
            raise Refused(f"user {user} was asked for, and the user and org service answered with {found}")
        return None if response.get("isDeleted") is True else _user(user, response)


def _user(user: str, response: Mapping[str, Any]) -> User:
    given = response.get("organisations")
    members = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    organisations = {str(one.get("organisationId") or "") for one in members if one.get("isDeleted") is not True}
    organisations.add(str(response.get("rootOrgId") or ""))
    status = response.get("status", _ACTIVE)
    if not isinstance(status, int | str | None):
        raise Transient(f"the user and org service gives user {user} a status that is none: {status}")
    return User(user, status in {_ACTIVE, str(_ACTIVE)}, frozenset(organisations - {""}))


def check_transfer(users: Users, source: str, target: str, organisation: str | None) -> None:
    """Make sure that the target may have the source's batches. Raises `Refused` with the reason.

    The target exists, is active and belongs to the organisation. A source that is deleted is normal, because Sunbird
    deletes the user first; one that is not belongs to the organisation as well.
    """
    heir = users.read(target)
    if heir is None:
        raise Refused(f"the target {target} is deleted or blocked ({BLOCKED})")
    if not heir.active:
        raise Refused(f"the target {target} is not active")
    giver = users.read(source)
    for name, user in (("target", heir), ("source", giver)):
        if organisation is not None and user is not None and not user.belongs_to(organisation):
            raise Refused(f"the {name} {user.id} does not belong to organisation {organisation}")
