"""docker-compose.yml and Dockerfile: nobody can run them here, so all that can be known without an engine is held."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlsplit

import pytest
import typer.main
from ruamel.yaml import YAML

from lern.cli.commands import app
from lern.flower.access import Access
from lern.settings import Settings, Topic
from lern.store.cassandra_place import Place

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "docker-compose.yml"
OURS: Final = "lern"
# What whoever starts the stack has to write down, and what may be chosen.
GIVEN: Final = {"POSTGRES_PASSWORD": "secret", "FLOWER_PASSWORD": "secret"}
CHOSEN: Final = {"LERN_ENV"}
COMMANDS: Final = typer.main.get_command(app)
_VARIABLE: Final = re.compile(r"\$\$|\$\{(\w+)(?::?[-?]([^}]*))?\}")

Service = Mapping[str, Any]


def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(FILE)  # type: ignore[no-any-return]


def interpolated(text: object) -> str:
    """Do what Compose does with `${NAME:-default}`, `${NAME:?reason}` and `$$`."""
    return _VARIABLE.sub(lambda m: "$" if m[0] == "$$" else GIVEN.get(m[1], m[2] or ""), str(text))


def services(*, ours: bool | None = None) -> dict[str, Service]:
    found: dict[str, Service] = compose()["services"]
    return {name: one for name, one in found.items() if ours is None or (one["image"] == OURS) == ours}


def environment(service: Service) -> dict[str, str]:
    return {name: interpolated(value) for name, value in service.get("environment", {}).items()}


def dockerfile() -> list[tuple[str, str]]:
    """Give the Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def image_environment() -> dict[str, str]:
    pairs = " ".join(rest for word, rest in dockerfile() if word == "ENV").split()
    return dict(pair.split("=", 1) for pair in pairs)


def parse(command: Sequence[str]) -> None:
    """Parse a command line with the real command tree. Raises what that raises for a wrong one."""
    program, *arguments = command
    assert program == "lern"
    current: Any = COMMANDS
    context = None
    while True:
        context = current.make_context(program, arguments, parent=context)
        if not hasattr(current, "resolve_command"):
            return
        program, current, arguments = current.resolve_command(context, [*context._protected_args, *context.args])


def command_lines() -> dict[str, list[str]]:
    """Give every command line of ours, by service."""
    return {name: [interpolated(word) for word in one["command"]] for name, one in services(ours=True).items()}


def test_the_file_is_what_the_compose_specification_asks_for() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("command", command_lines().values(), ids=command_lines())
def test_every_command_is_one_of_the_real_command_line(command: list[str]) -> None:
    parse(command)


def test_a_command_or_an_option_that_is_not_there_is_found_out() -> None:
    # The test above says something only if this one holds.
    for command in (["lern", "wroker"], ["lern", "bridge", "--strat", "latest"]):
        with pytest.raises(Exception, match=r"(?i)no such"):
            parse(command)


@pytest.mark.parametrize("name", services(ours=True))
def test_every_setting_exists_and_makes_sense_with_the_others(name: str) -> None:
    given = {**image_environment(), **environment(services()[name])}

    settings = Settings.load({key: value for key, value in given.items() if key.startswith("LERN_")})

    settings.require_shared_ledger()
    assert not settings.embedded_redis


def test_all_of_our_services_agree_on_what_they_must_agree_on() -> None:
    loaded = [Settings.load(environment(service)) for service in services(ours=True).values()]

    shared = ("env", "store_url", "ledger_url", "broker_url", "locks_url", "lock_ttl", "queue", "relations_url")
    for field in shared:
        assert len({getattr(settings, field) for settings in loaded}) == 1, field


def test_every_address_is_a_service_of_the_file() -> None:
    for service in services(ours=True).values():
        settings = Settings.load(environment(service))
        urls = (settings.search_url, settings.ledger_url, settings.broker_url, f"kafka://{settings.kafka_bootstrap}")
        for url in urls:
            assert urlsplit(str(url)).hostname in services()
        place = Place.of(settings.store_url_or_default)
        assert {host for host, _ in place.hosts} <= services().keys()
        assert place.dc == environment(services()["cassandra"])["CASSANDRA_DC"]


def test_what_is_waited_for_is_there_and_can_come_true() -> None:
    for service in services().values():
        for name, dependency in service.get("depends_on", {}).items():
            other = services()[name]
            match dependency["condition"]:
                case "service_healthy":
                    assert "healthcheck" in other
                case "service_completed_successfully":
                    assert str(other["restart"]).startswith("on-failure")
                case other_condition:
                    pytest.fail(f"{name}: {other_condition} says nothing about whether it works")


def test_what_stays_up_is_watched_restarted_and_bounded() -> None:
    for name, service in services().items():
        assert "mem_limit" in service, name
        if not str(service["restart"]).startswith("on-failure"):
            assert service["restart"] == "unless-stopped", name
            assert "healthcheck" in service or service["image"] == OURS, name


def test_whoever_works_starts_after_the_schemas_and_the_topics() -> None:
    for name in ("worker", "bridge"):
        waits = services()[name]["depends_on"]
        assert waits["migrate"]["condition"] == waits["topics"]["condition"] == "service_completed_successfully"
        assert waits["redis"]["condition"] == "service_healthy"


def test_what_must_outlive_its_container_is_on_a_volume() -> None:
    volumes = compose()["volumes"]

    for name in ("kafka", "cassandra", "elasticsearch", "redis", "postgres"):
        sources = [mount.split(":")[0] for mount in services()[name]["volumes"]]
        assert sources
        assert set(sources) <= volumes.keys()


def test_health_checks_ask_where_the_health_is_served() -> None:
    for name in ("worker", "bridge"):
        service = services()[name]
        port = environment(service)[f"LERN_{name.upper()}_PORT"]
        code = service["healthcheck"]["test"][-1]
        compile(code, name, "exec")
        assert f"http://127.0.0.1:{port}/health" in code


def test_flower_lets_nobody_in_without_a_password() -> None:
    told = environment(services()["flower"])
    [(user, password)] = [one.split(":", 1) for one in told["FLOWER_BASIC_AUTH"].split(",")]
    settings = Settings.load(told)

    access = Access(settings.flower_address, authenticated=bool(password), users=frozenset({user}))

    assert access.problem(by_name=True) is None
    assert services()["flower"]["ports"] == [f"127.0.0.1:{settings.flower_port}:{settings.flower_port}"]


def test_redis_forgets_nothing() -> None:
    words = services()["redis"]["command"]

    assert words[words.index("--appendonly") + 1] == "yes"
    assert words[words.index("--maxmemory-policy") + 1] == "noeviction"


def test_the_topics_are_the_ones_of_the_settings() -> None:
    told = environment(services()["topics"])
    settings = Settings.load(environment(services()["bridge"]))

    made = {f"{told['PREFIX']}.{topic}" for topic in told["TOPICS"].split()}

    assert made == {settings.topic(name) for name in get_args(Topic)}


def test_nothing_is_published_beyond_this_machine_and_no_image_moves_by_itself() -> None:
    for name, service in services().items():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        if service["image"] != OURS:
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", service["image"]), name


def test_whoever_starts_the_stack_is_told_what_to_write_down() -> None:
    text = FILE.read_text()
    head = text[: text.index("\nname:")]

    asked = {match[1] for match in _VARIABLE.finditer(text) if match[1]}

    assert asked <= GIVEN.keys() | CHOSEN
    assert all(name in head for name in asked - CHOSEN)
    assert all(f"${{{name}:?" in text for name in asked - CHOSEN), "a password has no default"


def test_nothing_of_ours_is_root_or_can_become_it() -> None:
    users = [rest for word, rest in dockerfile() if word == "USER"]
    assert users
    assert int(users[-1].split(":")[0]) > 0
    for service in services(ours=True).values():
        assert "user" not in service
        assert "privileged" not in service
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True


def test_the_image_is_built_from_what_is_there_and_not_ignored() -> None:
    ignored: list[str] = []
    kept: list[str] = []
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            (kept if line.startswith("!") else ignored).append(line.lstrip("!"))
    copied = [
        source
        for word, rest in dockerfile()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]

    assert ignored[0] == "*"
    for source in copied:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept)


def test_the_image_holds_all_that_is_ours_with_the_tested_versions_and_every_driver() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = (ROOT / "Dockerfile").read_text()
    copied = {word for instruction, rest in dockerfile() if instruction == "COPY" for word in rest.split()}
    extras = re.search(r"\.whl\)\[([\w,]+)\]", text)

    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]) <= copied
    assert text.count("install --constraint constraints.txt") == 2
    assert extras is not None
    every = set(project["project"]["optional-dependencies"]) - {"all", "dev", "embedded"}
    assert set(extras[1].split(",")) == every


def test_the_image_knows_only_settings_that_exist() -> None:
    assert Settings.load({k: v for k, v in image_environment().items() if k.startswith("LERN_")}).log_format == "json"
