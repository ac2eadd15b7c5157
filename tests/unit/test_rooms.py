"""Three rooms with one direction of dependency, and a front door that costs nothing."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What `from lern import Lern` must not bring into another service: drivers, and whatever is slow to import.
HEAVY = {
    "alembic",
    "cassandra",
    "celery",
    "confluent_kafka",
    "elasticsearch",
    "httpx",
    "kombu",
    "prometheus_client",
    "psycopg",
    "pydantic",
    "redis",
    "rich",
    "sqlalchemy",
    "structlog",
    "typer",
}


def imports(file: Path) -> Iterator[str]:
    """Give the top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def importers(room: str, *banned: str) -> list[str]:
    """Give the files of a room that import what they must not."""
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, room
    return [str(file.relative_to(ROOT)) for file in files if set(banned) & set(imports(file))]


def test_the_domain_knows_neither_tasks_nor_workflows() -> None:
    assert importers("lern", "tasks", "workflows") == []


def test_only_the_client_of_the_domain_knows_celery() -> None:
    assert importers("lern", "celery", "kombu", "billiard") == ["lern/client.py"]


def test_steps_do_not_know_which_workflow_they_belong_to() -> None:
    assert importers("tasks", "workflows") == []


def test_rules_are_pure() -> None:
    drivers = HEAVY | {"os", "pathlib", "socket", "sqlite3", "subprocess", "time"}
    assert importers("lern/rules", *drivers) == []


@pytest.mark.parametrize("statement", ["import lern", "from lern import Lern", "from lern import Run"])
def test_another_service_can_import_the_client_without_paying_for_it(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    env = {"PATH": os.environ["PATH"]}
    loaded = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split())


def test_a_name_that_the_front_door_does_not_have_is_an_ordinary_error() -> None:
    with pytest.raises(ImportError):
        from lern import Learn  # noqa: F401
