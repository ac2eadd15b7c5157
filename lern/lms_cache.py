"""The list of a user's enrolments as lms-service caches it.

Key `<user>:user-enrolments`, STRING, expires by itself; in lms-service's own Redis database (2 unless configured
otherwise). lms-service drops it when somebody enrols, not when accounts are merged: until it expires the user sees the
list of before.
"""

import redis

from lern.errors import Unreachable


def forget_enrolment_list(client: redis.Redis, user: str) -> None:
    """Drop a user's cached list, if there is one. Raises `Unreachable`."""
    try:
        client.delete(f"{user}:user-enrolments")
    except redis.RedisError as error:
        raise Unreachable("lms cache", str(error)) from error
