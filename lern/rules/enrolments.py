"""A learner's enrolment in a course batch: user_enrolments, and user_courses before it."""

from collections.abc import Hashable, Mapping
from typing import Final

from lern.rules.rule import (
    EnrolmentPolicy,
    Rules,
    Together,
    earlier,
    either,
    higher,
    per_key,
    targets,
    united_by,
)
from lern.store.tables import USER_COURSES, Row

COMPLETED: Final = 2
# Cells without which nobody has enrolled by a row.
_ENROLLING: Final = ("active", "enrolled_date")
_CERTIFICATE_LISTS: Final = ("issued_certificates", "certificates")


def ghost(row: Row) -> bool:
    """Say whether nobody ever enrolled by this row.

    Saving the content state of a learner who is not enrolled creates a row without active and enrolled_date.
    A row that says active = false is a real enrolment that was left.
    """
    return not any(column in row for column in _ENROLLING)


def identity_of_certificate(certificate: Mapping[str, str]) -> Hashable:
    """Tell certificates apart: by token, else by identifier, else by all they hold."""
    for name in ("token", "identifier"):
        value = certificate.get(name)
        if value and value.strip():
            return name, value
    return frozenset(certificate.items())


def _source_read_later(target: Row, source: Row) -> bool:
    mine, theirs = target.get("lastcontentaccesstime"), source.get("lastcontentaccesstime")
    return theirs is not None and (mine is None or theirs > mine)


def _lacking(target: Row, source: Row) -> str | None:
    """Name the first thing of worth that the source's enrolment has and the target's lacks."""
    for column in _CERTIFICATE_LISTS:
        known = {identity_of_certificate(certificate) for certificate in target.get(column, ())}
        for certificate in source.get(column, ()):
            if identity_of_certificate(certificate) not in known:
                return f"target has no certificate {_name_of_certificate(certificate)} in {column}"
    if "completedon" in source and "completedon" not in target:
        return "target has no completion date"
    if source.get("status", 0) >= COMPLETED > target.get("status", 0):
        return "target has not completed the course"
    if source.get("active") and not target.get("active"):
        return "target is not active in the batch"
    return None


def _name_of_certificate(certificate: Mapping[str, str]) -> str:
    return certificate.get("identifier") or certificate.get("name") or "without an identifier"


USER_ENROLMENTS_RULES: Final = Rules(
    columns={
        "status": higher,
        "progress": higher,
        "completionpercentage": higher,
        "contentstatus": per_key(higher),
        "completedon": earlier,
        "enrolled_date": earlier,
        "active": either,
        "certificates": united_by(identity_of_certificate),
        "issued_certificates": united_by(identity_of_certificate),
        "addedby": targets,
        "certstatus": targets,
        "datetime": targets,
        "enrolleddate": targets,
    },
    together=(Together(("lastreadcontentid", "lastreadcontentstatus", "lastcontentaccesstime"), _source_read_later),),
    ghost=ghost,
    enrolling=_ENROLLING,
    ignored=frozenset({EnrolmentPolicy.IGNORE}),
    lacking=_lacking,
)

# The first design, word for word: where the target has a row for the batch the source's is ignored, and goes.
USER_COURSES_RULES: Final = Rules(
    columns=dict.fromkeys(USER_COURSES.values, targets),
    ignored=frozenset(EnrolmentPolicy),
)
