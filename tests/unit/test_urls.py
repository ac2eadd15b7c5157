"""URLs: shown without their secrets, compared by where they point."""

from pathlib import Path

import pytest

from lern import urls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("postgresql+psycopg://me:pw@h/d?sslmode=require", "postgresql+psycopg://me:***@h/d?sslmode=require"),
        ("http://h:9200/x?password=pw&a=1", "http://h:9200/x?password=***&a=1"),
        ("postgresql://h/d?sslpassword=pw&a=1", "postgresql://h/d?sslpassword=***&a=1"),
        ("http://h/?a=1&client_secret=pw&Auth-Token=pw", "http://h/?a=1&client_secret=***&Auth-Token=***"),
        ("http://h/?tokens=3&passwordless=yes", "http://h/?tokens=3&passwordless=yes"),
        ("from redis://u:p@a/0 to redis://u:p@b/1.", "from redis://u:***@a/0 to redis://u:***@b/1."),
        ('{"url": "redis://:p/w@h"}', '{"url": "redis://:***@h"}'),
        ("redis://:p@w@h/0", "redis://:***@h/0"),
        ("http://h:9200/_search and a@b.org", "http://h:9200/_search and a@b.org"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert urls.redacted(text) == shown


@pytest.mark.parametrize("password", ["p w", "p\"w'", "p:w", "p@w", "p/w", "p\nw"])
def test_what_a_url_has_for_a_password_may_be_anything(password: str) -> None:
    assert urls.redacted_url(f"cassandra://me:{password}@h:9042/k?dc=1") == "cassandra://me:***@h:9042/k?dc=1"
    assert urls.redacted_url("http://h:9200/x?password=pw") == "http://h:9200/x?password=***"


def test_places_are_equal_when_the_keys_are_shared() -> None:
    assert urls.redis_place("redis://:a@LOCALHOST") == urls.redis_place("rediss://127.0.0.1:6379/0")
    assert urls.redis_place("redis://h/1") == urls.redis_place("redis://h?db=1")
    assert urls.redis_place("redis://h/1") != urls.redis_place("redis://h/2")


def test_sqlite_files_are_equal_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert urls.sqlite_file(f"sqlite:///{tmp_path}/link") == urls.sqlite_file(f"sqlite+pysqlite:///{tmp_path}/real?x=1")
    assert urls.sqlite_file("postgresql://h/d") is None


def test_postgresql_means_the_driver_that_we_install() -> None:
    assert urls.sqlalchemy_url("postgresql://h/d") == "postgresql+psycopg://h/d"
    assert urls.sqlalchemy_url("postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"
