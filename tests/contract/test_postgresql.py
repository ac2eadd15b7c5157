"""That a PostgreSQL has vanished is asked of the kernel: who keeps a connection hears of it within half a minute."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from lern.ledger import Ledger
from lern.postgresql import watched
from lern.store.sql import SqlStore


def of_the_ledger(url: str) -> dict[str, int]:
    with closing(Ledger(url)) as ledger, ledger._database.read() as connection:
        return patience(connection.connection.dbapi_connection)


def of_the_store(url: str) -> dict[str, int]:
    with closing(SqlStore(url)) as store, store._engines.reading() as connection:
        return patience(connection._pooled.dbapi_connection)


def patience(driver: Any) -> dict[str, int]:
    with socket.socket(fileno=os.dup(driver.fileno())) as line:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        return {name: line.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}


@pytest.mark.parametrize("of", [of_the_ledger, of_the_store])
def test_a_connection_asks_whether_the_server_is_still_there(
    new_postgres_url: str, of: Callable[[str], dict[str, int]]
) -> None:
    asked = of(new_postgres_url)
    assert asked["TCP_KEEPIDLE"] + asked["TCP_KEEPINTVL"] * asked["TCP_KEEPCNT"] <= 30
    assert asked["TCP_USER_TIMEOUT"] == 30_000


def test_what_a_url_says_itself_holds(new_postgres_url: str) -> None:
    url = sa.make_url(new_postgres_url).update_query_dict({"keepalives_idle": "99"})
    assert of_the_ledger(url.render_as_string(hide_password=False))["TCP_KEEPIDLE"] == 99
    assert "keepalives_idle" not in watched(url)
