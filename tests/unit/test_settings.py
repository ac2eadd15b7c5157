"""Settings: right without any, refused with the reason when unknown, impossible or unsafe."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lern.errors import SettingsError
from lern.settings import Settings, Topic, described, markdown, variable
from lern.store.tables import TABLES

ROOT = Path(__file__).parents[2]


def refusal(**environ: str) -> str:
    """Load settings that must be refused, and give the reason."""
    with pytest.raises(SettingsError) as refused:
        Settings.load(environ)
    return str(refused.value)


def test_without_any_setting_everything_is_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    assert settings.data_dir == tmp_path / ".lern"
    assert settings.store_url_or_default == f"sqlite:///{tmp_path}/.lern/learners.sqlite"
    assert settings.ledger_url_or_default == f"sqlite:///{tmp_path}/.lern/ledger.sqlite"
    assert settings.out_dir == tmp_path / ".lern" / "out"
    assert settings.embedded_redis
    settings.require_shared_ledger()


def test_the_data_directory_stays_where_it_was_when_the_process_changes_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"LERN_DATA_DIR": "here", "LERN_STORE_URL": "sqlite:///rows.sqlite"})
    monkeypatch.chdir("/")
    assert settings.data_dir == tmp_path / "here"
    assert settings.store_url_or_default == f"sqlite:///{tmp_path}/rows.sqlite"


@pytest.mark.parametrize("below", ["", "lern", "lern/here"])
def test_a_data_directory_that_cannot_be_one_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "nowhere"):
        reason = refusal(LERN_DATA_DIR=str(tmp_path / name / below))
        assert reason.endswith(f"must be a directory, and {tmp_path / name} is something else")


def test_the_environment_of_the_process_is_read_when_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LERN_ENV", "staging")
    assert Settings.load().env == "staging"


def test_an_unknown_name_is_refused_with_the_right_one_suggested() -> None:
    reason = refusal(LERN_STROE_URL="sqlite:///x")
    assert reason == "LERN_STROE_URL is not a setting of Lern; did you mean LERN_STORE_URL?"
    assert "docs/settings.md" in refusal(LERN_XYZZY="1")


def test_other_programs_variables_and_empty_ones_are_none_of_our_business() -> None:
    assert Settings.load({"PATH": "/bin", "LERN_ENV": "", "LERN_NOTHING": "", "XLERN_ENV": "x"}).env == "dev"


def test_every_problem_is_named_on_a_line_of_its_own() -> None:
    lines = refusal(LERN_STROE_URL="x", LERN_CHUNK_ROWS="many", LERN_RETRY_BASE="9", LERN_RETRY_CAP="3").splitlines()
    assert [re.match(r"LERN_\w+", line)[0] for line in lines] == [  # type: ignore[index]
        "LERN_STROE_URL",
        "LERN_CHUNK_ROWS",
        "LERN_RETRY_BASE",
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("LERN_ENV", " ", "letters, digits"),
        ("LERN_ENV", "my env", "letters, digits"),
        ("LERN_ENV", "a.b", "letters, digits"),
        ("LERN_CHUNK_ROWS", "0", "1 to 10,000: a chunk is read"),
        ("LERN_CHUNK_ROWS", "10001", "1 to 10,000"),
        ("LERN_CHUNK_ROWS", "1.5", "a whole number"),
        ("LERN_LOCK_TTL", "0.9", "pause of a worker"),
        ("LERN_LOCK_TTL", "nan", "a number"),
        ("LERN_LOCK_WAIT", "-1", "at least 0"),
        ("LERN_LOCK_WAIT", "inf", "a number"),
        ("LERN_MERGE_ENROLMENTS", "Combine", "'combine' or 'ignore'"),
        ("LERN_MERGE_TABLES", "legacy", "never instead"),
        ("LERN_MERGE_TABLES", "current,old", "'current' or 'legacy'"),
        ("LERN_OWNERSHIP_STATUSES", "0,3", "0 (upcoming)"),
        ("LERN_STORE_URL", "postgres://h/d", "did you mean postgresql://?"),
        ("LERN_STORE_URL", "mysql://h/d", "cassandra:// or sqlite://"),
        ("LERN_STORE_URL", "learners.sqlite", "starts with"),
        ("LERN_STORE_URL", "sqlite://", "in memory"),
        ("LERN_STORE_URL", "sqlite:///:memory:", "in memory"),
        ("LERN_STORE_URL", "cassandra://h1,h2:9042", "host and keyspace"),
        ("LERN_LEDGER_URL", "cassandra://h/ks", "starts with sqlite://"),
        ("LERN_BROKER_URL", "amqp://h", "redis:// or rediss://"),
        ("LERN_BROKER_URL", "redis://h/zero", "number of a database"),
        ("LERN_BROKER_URL", "redis://h:port/0", "number as its port"),
        ("LERN_SEARCH_URL", "h1:9200", "http:// or https://"),
        ("LERN_KAFKA_BOOTSTRAP", "h1", "host:port"),
        ("LERN_KAFKA_SECURITY_PROTOCOL", "TLS", "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ("LERN_KAFKA_SASL_MECHANISM", "GSSAPI", "'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'"),
        ("LERN_KAFKA_SSL_CA", "/no/such/file", "a file, and there is none"),
        ("LERN_TOPIC_TELEMETRY_RAW", "a topic", "Kafka topic"),
        ("LERN_TABLE_COURSE_BATCH", "x; drop table y", "a table"),
        ("LERN_USER_READ_API", "v1/read", "starts with /"),
        ("LERN_DATA_DIR", "what?", "SQLite"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_name_value_and_reason(name: str, value: str, reason: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"{name}={value!r} must ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"LERN_LOCK_WAIT": "10", "LERN_LOCK_TTL": "1"}, "stand idle"),
        ({"LERN_RETRY_BASE": "2", "LERN_RETRY_CAP": "1"}, "cut off"),
        ({"LERN_STORE_URL": "sqlite:////a/b", "LERN_LEDGER_URL": "sqlite:////a/./b"}, "same SQLite file, /a/b"),
        ({"LERN_DATA_DIR": "/a", "LERN_STORE_URL": "sqlite:////a/ledger.sqlite"}, "same SQLite file"),
        ({"LERN_BROKER_URL": "redis://h:6379/2", "LERN_RELATIONS_URL": "redis://h/2"}, "database, 2 of h:6379"),
        ({"LERN_BROKER_URL": "redis://localhost/2", "LERN_RELATIONS_URL": "redis://127.0.0.1?db=2"}, "same database"),
        ({"LERN_BROKER_URL": "redis://h/10"}, "same database"),
        ({"LERN_KAFKA_SASL_USERNAME": "lern"}, "nobody would log in"),
        ({"LERN_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "LERN_KAFKA_SASL_USERNAME": "lern"}, "LERN_KAFKA_SASL_PASSWORD"),
        ({"LERN_KAFKA_SSL_CA": __file__}, "LERN_KAFKA_SSL_CA without SSL in LERN_KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"LERN_KAFKA_SECURITY_PROTOCOL": "SSL", "LERN_KAFKA_SSL_KEY": __file__}, "go together"),
        ({"LERN_SEARCH_URL": "http://h:9200", "LERN_SEARCH_CA": __file__}, "nothing would be encrypted"),
        ({"LERN_TABLE_COURSE_BATCH": "user_courses"}, "LERN_TABLE_COURSE_BATCH and LERN_TABLE_USER_COURSES are both"),
        ({"LERN_TOPIC_TELEMETRY_RAW": "dev.learning.events.failed"}, "are both 'dev.learning.events.failed'"),
    ],
)
def test_an_unsafe_combination_is_refused_with_the_reason(environ: dict[str, str], reason: str) -> None:
    assert reason in refusal(**environ)


def test_a_combination_is_not_judged_by_the_default_of_what_is_wrong_by_itself() -> None:
    assert refusal(LERN_LOCK_TTL="x", LERN_LOCK_WAIT="200").count("LERN_") == 1


def test_a_refusal_keeps_passwords_to_itself() -> None:
    assert "secret" not in refusal(LERN_BROKER_URL="redis://:secret@h/zero")
    assert "secret" not in refusal(LERN_STORE_URL="postgres://me:secret@h/d")
    assert "sec" not in refusal(LERN_BROKER_URL="redis://:sec/ret@h/0")
    assert "pw-4711" not in refusal(LERN_KAFKA_SASL_PASSWORD="pw-4711")


@pytest.mark.parametrize("broker", ["redis://redis.internal:6379/0", "rediss://10.0.0.7/0"])
def test_a_broker_that_hosts_share_needs_a_ledger_that_they_share(broker: str) -> None:
    with pytest.raises(SettingsError, match="LERN_LEDGER_URL is not set"):
        Settings.load({"LERN_BROKER_URL": broker}).require_shared_ledger()
    Settings.load({"LERN_BROKER_URL": broker, "LERN_LEDGER_URL": "postgresql://h/lern"}).require_shared_ledger()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.1.1", "[::1]"])
def test_a_broker_on_the_loopback_is_shared_with_nobody(host: str) -> None:
    Settings.load({"LERN_BROKER_URL": f"redis://{host}:6379/0"}).require_shared_ledger()


def test_locks_and_relations_live_with_the_broker_unless_told_otherwise() -> None:
    settings, broker = Settings.load({}), "redis://:pw@h:7000/1"
    assert settings.locks_url_or(broker) == broker
    assert settings.relations_url_or(broker) == "redis://:pw@h:7000/10"
    assert settings.relations_url_or("redis://h?db=1&health_check_interval=5") == "redis://h/10?health_check_interval=5"
    apart = Settings.load({"LERN_LOCKS_URL": "redis://l", "LERN_RELATIONS_URL": "redis://r/3"})
    assert (apart.locks_url_or(broker), apart.relations_url_or(broker)) == ("redis://l", "redis://r/3")


def test_topics_and_group_carry_the_environment_unless_named() -> None:
    settings = Settings.load({"LERN_ENV": "prod", "LERN_TOPIC_TELEMETRY_RAW": "raw"})
    assert settings.topic("user_account_merge") == "prod.lms.user.account.merge"
    assert settings.topic("telemetry_raw") == "raw"
    assert settings.kafka_group_or_default == "prod-lern-bridge"


def test_every_topic_of_the_documents_can_be_named() -> None:
    topics: tuple[Topic, ...] = (
        "user_account_merge",
        "user_ownership_transfer",
        "coursebatch_job_request",
        "learning_events_failed",
        "issue_certificate_request",
        "telemetry_raw",
    )
    for topic in topics:
        assert Settings.load({f"LERN_TOPIC_{topic.upper()}": "mine"}).topic(topic) == "mine"


def test_every_learner_table_can_be_named() -> None:
    assert Settings.load({}).tables == {name: name for name in TABLES}
    renamed = {f"LERN_TABLE_{name.upper()}": f"my_{name}" for name in TABLES}
    assert Settings.load(renamed).tables == {name: f"my_{name}" for name in TABLES}


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load({}).env = "other"  # type: ignore[misc]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "LERN_ENV": st.from_regex(r"[a-z0-9_-]{1,9}", fullmatch=True),
            "LERN_DATA_DIR": st.from_regex(r"/[a-z]{1,9}", fullmatch=True),
            "LERN_BROKER_URL": st.just("redis://:pw@h:6379/0"),
            "LERN_STORE_URL": st.sampled_from(["postgresql://u:p@h/d", "sqlite:///x.sqlite", "cassandra://h/ks?dc=a"]),
            "LERN_MERGE_TABLES": st.sampled_from(["current", "current,legacy", "legacy, current"]),
            "LERN_OWNERSHIP_STATUSES": st.sampled_from(["0", "0,1", "2,0"]),
            "LERN_CHUNK_ROWS": st.integers(1, 10_000).map(str),
            "LERN_LOCK_WAIT": st.floats(0, 9).map(repr),
            "LERN_LOG_LEVEL": st.sampled_from(["debug", "INFO"]),
        },
    )
)
def test_another_process_can_be_given_the_same_settings(environ: dict[str, str]) -> None:
    settings = Settings.load(environ)
    assert Settings.load(settings.environ()) == settings


def test_of_settings_that_nobody_changed_another_process_needs_only_the_directory() -> None:
    assert Settings.load({}).environ() == {"LERN_DATA_DIR": str(Path(".lern").absolute())}


def test_every_setting_says_what_it_is_for() -> None:
    assert [row.variable for row in described()] == [variable(field) for field in Settings.model_fields]
    assert all(row.description.endswith(".") for row in described())


def test_the_settings_page_is_the_settings_table() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == markdown(), "run `make docs`"


def test_reading_settings_imports_no_driver() -> None:
    code = "import sys, lern.settings; print(*sys.modules)"
    env = {"PATH": os.environ["PATH"]}
    loaded = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"celery", "kombu", "redis", "sqlalchemy", "structlog", "typer"} & set(loaded.stdout.split())
