"""Every `LERN_*` variable, in one frozen, typed object.

The environment is read once, by `Settings.load`; what is unknown or unsafe is refused there, with the reason.
docs/settings.md is this file's table: `python -m lern.settings > docs/settings.md`.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lern import urls
from lern.errors import SettingsError

__all__ = ["Described", "Settings", "SettingsError", "Topic", "described", "markdown", "variable"]

PREFIX: Final = "LERN_"
RELATIONS_DB: Final = 10

Topic = Literal[
    "user_account_merge",
    "user_ownership_transfer",
    "coursebatch_job_request",
    "learning_events_failed",
    "issue_certificate_request",
    "telemetry_raw",
]

# What follows `{env}.` in the topic names of Sunbird's documents.
_TOPICS: Final[Mapping[Topic, str]] = {
    "user_account_merge": "lms.user.account.merge",
    "user_ownership_transfer": "user.ownership.transfer",
    "coursebatch_job_request": "coursebatch.job.request",
    "learning_events_failed": "learning.events.failed",
    "issue_certificate_request": "issue.certificate.request",
    "telemetry_raw": "telemetry.raw",
}


def variable(field: str) -> str:
    """Give the environment variable of a field: `lock_ttl` → `LERN_LOCK_TTL`."""
    return PREFIX + field.upper()


# What a single value must be. Each raises ValueError with the reason and what to do.


def _between(low: float, high: float, reason: str) -> AfterValidator:
    def check(value: float) -> float:
        if low <= value <= high:
            return value
        bounds = f"must be {low:,} to {high:,}" if high < sys.maxsize else f"must be at least {low:,}"
        raise ValueError(f"{bounds}: {reason}")

    return AfterValidator(check)


def _matching(pattern: str, wanted: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value):
            return value
        raise ValueError(f"must be {wanted}")

    return AfterValidator(check)


def _schemes(*allowed: str) -> Callable[[str], str]:
    def check(url: str) -> str:
        found = urls.scheme(url)
        if found in allowed:
            return url
        wanted = " or ".join(f"{name}://" for name in allowed)
        near = difflib.get_close_matches(found, allowed, n=1)
        hint = f"; did you mean {near[0]}://?" if near else ""
        raise ValueError(f"must be a URL that starts with {wanted}{hint}")

    return check


def _redis(url: str) -> str:
    urls.redis_place(url)
    return url


def _database(url: str) -> str:
    if urls.scheme(url).startswith("sqlite") and urls.sqlite_file(url) is None:
        raise ValueError("must name a file: in memory every process would have a database of its own")
    if urls.scheme(url) == "cassandra" and not re.match(r"cassandra://[^/?]+/\w+(\?|$)", url):
        raise ValueError(
            "must name host and keyspace, as in cassandra://host:9042/sunbird_courses?dc=dc1, and a login, if there is "
            "one, percent-encoded before the host, as in cassandra://user:p%40ss@host:9042/…"
        )
    return urls.sqlalchemy_url(url)


def _directory(path: Path) -> Path:
    if "?" in str(path):
        raise ValueError("must not contain '?', which would end the path in the URL of the SQLite files in it")
    path = path.expanduser().absolute()
    there = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not there.is_dir():
        raise ValueError(f"must be a directory, and {there} is something else")
    return path


def _readable(path: Path) -> Path:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ValueError("must be a file, and there is none")
    if not os.access(path, os.R_OK):
        raise ValueError("must be a file that this user may read")
    return path


def _list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _current_tables(value: tuple[str, ...]) -> tuple[str, ...]:
    if "current" in value and len(set(value)) == len(value):
        return value
    raise ValueError("must be current or current,legacy: the legacy tables are merged besides, never instead")


def _statuses(value: tuple[int, ...]) -> tuple[int, ...]:
    if value and set(value) <= {0, 1, 2} and len(set(value)) == len(value):
        return value
    raise ValueError("must be one or more of 0 (upcoming), 1 (ongoing) and 2 (ended), each once, as in 0,1")


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError):
        raise ValueError("must be a time zone that this machine knows, as in Asia/Kolkata") from None
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


_POSTGRESQL = ("postgresql", "postgresql+psycopg")
_NOT_NEGATIVE = "it is a time"

RedisUrl = Annotated[str, AfterValidator(_schemes("redis", "rediss")), AfterValidator(_redis)]
HttpUrl = Annotated[str, AfterValidator(_schemes("http", "https"))]
StoreUrl = Annotated[str, AfterValidator(_schemes("cassandra", "sqlite", *_POSTGRESQL)), AfterValidator(_database)]
LedgerUrl = Annotated[str, AfterValidator(_schemes("sqlite", *_POSTGRESQL)), AfterValidator(_database)]
Directory = Annotated[Path, AfterValidator(_directory)]
Bootstrap = Annotated[str, _matching(r"[^\s,:]+:\d+(,[^\s,:]+:\d+)*", "host:port, or several of them with commas")]
Name = Annotated[
    str, _matching(r"[A-Za-z0-9_-]{1,100}", "letters, digits, - and _: it becomes part of topic, group and key names")
]
TopicName = Annotated[str, _matching(r"(?!\.\.?$)[A-Za-z0-9._-]{1,249}", "a Kafka topic: letters, digits, . _ and -")]
TableName = Annotated[str, _matching(r"[a-z][a-z0-9_]{0,47}", "a table: small letters, digits and _, at most 48")]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
ApiPath = Annotated[str, _matching(r"/\S*", "a path that starts with /")]
MergeTables = Annotated[
    tuple[Literal["current", "legacy"], ...], BeforeValidator(_list), AfterValidator(_current_tables)
]
Names = Annotated[tuple[str, ...], BeforeValidator(_list)]
File = Annotated[Path, AfterValidator(_readable)]
Secret = Annotated[str, _matching(r"[\x21-\x7e]{16,}", "16 visible ASCII characters or more: it opens every run")]
Statuses = Annotated[tuple[int, ...], BeforeValidator(_list), AfterValidator(_statuses)]
Seconds = Annotated[float, _between(0, sys.maxsize, _NOT_NEGATIVE)]


class Settings(BaseModel):
    """What this installation is told by its environment. Times are in seconds unless the name says otherwise."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, str_strip_whitespace=True
    )

    env: Name = Field(
        default="dev", description="The installation's name: what `{env}` is in the topic and group names."
    )
    data_dir: Directory = Field(
        default=Path(".lern"), description="Directory of the embedded default's files: SQLite, Redis and `out/`."
    )

    store_url: StoreUrl | None = Field(
        default=None,
        description="Learner rows: `cassandra://h1,h2:9042/sunbird_courses?dc=…`, `postgresql+psycopg://…` or "
        "`sqlite:///…`.",
        json_schema_extra={"shown": "SQLite in the data directory"},
    )
    search_url: HttpUrl | None = Field(
        default=None,
        description="Elasticsearch with the index `course-batch`, as in `http://h1:9200`.",
        json_schema_extra={"shown": "the store itself"},
    )
    search_ca: File | None = Field(
        default=None,
        description="PEM file of the authority that has signed Elasticsearch's certificate; goes with `https://`.",
        json_schema_extra={"shown": "the public ones"},
    )
    ledger_url: LedgerUrl | None = Field(
        default=None,
        description="Runs, steps, journal and dead letters: `postgresql+psycopg://…` or `sqlite:///…`.",
        json_schema_extra={"shown": "SQLite in the data directory"},
    )
    broker_url: RedisUrl | None = Field(
        default=None,
        description="Redis that carries the step messages.",
        json_schema_extra={"shown": "a private Redis in the data directory"},
    )
    locks_url: RedisUrl | None = Field(
        default=None,
        description="Redis that holds the users' locks.",
        json_schema_extra={"shown": "the broker's"},
    )
    relations_url: RedisUrl | None = Field(
        default=None,
        description="Redis with leaf nodes, optional nodes and ancestors of collections.",
        json_schema_extra={"shown": f"the broker's Redis, database {RELATIONS_DB}"},
    )
    lms_redis_url: RedisUrl | None = Field(
        default=None,
        description="lms-service's cache. Set: a learner's cached list of enrolments is dropped after a merge.",
    )
    lms_url: HttpUrl | None = Field(
        default=None, description="lms-service. Set: course batches are searched through its API."
    )
    userorg_url: HttpUrl | None = Field(
        default=None, description="User and org service. Set: the users of an ownership transfer are checked there."
    )

    kafka_bootstrap: Bootstrap | None = Field(
        default=None,
        description="Kafka, `host:port,host:port`. Not set: events come from files only and go to `out/<topic>.jsonl`.",
    )
    kafka_group: Name | None = Field(
        default=None,
        description="Consumer group of the bridges.",
        json_schema_extra={"shown": "`{env}-lern-bridge`"},
    )
    kafka_session_timeout: Annotated[float, _between(1, 1_800, "a bridge that hangs keeps its partitions as long")] = (
        Field(default=10.0, description="Time after which a killed bridge's partitions are another's.")
    )
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = Field(
        default="PLAINTEXT",
        description="How Kafka's listener is spoken to: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.",
    )
    kafka_sasl_mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(_upper)] | None
    ) = Field(
        default=None, description="How to log in to Kafka: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; goes with SASL."
    )
    kafka_sasl_username: str | None = Field(default=None, description="Who logs in to Kafka.")
    kafka_sasl_password: str | None = Field(default=None, description="The password for that.")
    kafka_ssl_ca: File | None = Field(
        default=None,
        description="PEM file of the authority that has signed Kafka's certificate; goes with SSL.",
        json_schema_extra={"shown": "the system's"},
    )
    kafka_ssl_certificate: File | None = Field(
        default=None, description="PEM file of our own certificate, for a Kafka that asks for one."
    )
    kafka_ssl_key: File | None = Field(default=None, description="PEM file of its private key, without a passphrase.")
    bridge_batch: Annotated[int, _between(1, 10_000, "a batch is one transaction of the ledger")] = Field(
        default=500, description="Events that the bridge takes in at once."
    )
    bridge_pause_at: Annotated[int, _between(1, 10_000_000, "messages wait in the broker's memory")] = Field(
        default=10_000, description="Length of the queue at which the bridge stops reading from Kafka."
    )
    bridge_resume_at: Annotated[int, _between(0, 10_000_000, "it is a number of messages")] = Field(
        default=5_000, description="Length of the queue at which it reads on."
    )
    bridge_port: Annotated[int, _between(1, 65_535, "it is a port")] | None = Field(
        default=None, description="Port of the bridge's `/health`, `/ready` and `/metrics`. Not set: not served."
    )
    bridge_host: Annotated[str, _matching(r"[A-Za-z0-9.:_-]+", "an address of this machine, as in 0.0.0.0")] = Field(
        default="127.0.0.1", description="Address on which they are served; in a container `0.0.0.0`."
    )
    worker_port: Annotated[int, _between(1, 65_535, "it is a port")] | None = Field(
        default=None, description="Port of a worker's `/health`, `/ready` and `/metrics`. Not set: not served."
    )
    worker_host: Annotated[str, _matching(r"[A-Za-z0-9.:_-]+", "an address of this machine, as in 0.0.0.0")] = Field(
        default="127.0.0.1", description="Address on which they are served; in a container `0.0.0.0`."
    )
    queue: Name = Field(default="lern", description="Celery queue of the steps.")
    concurrency: Annotated[int, _between(1, 1_000, "each is a process of the worker")] = Field(
        default=2, description="Processes per worker."
    )

    merge_enrolments: Literal["combine", "ignore"] = Field(
        default="combine",
        description="`combine`: an enrolment that both accounts have is improved by the source's. `ignore`: the "
        "target's stays as it is, as the old job does it.",
    )
    merge_tables: MergeTables = Field(
        default=("current",),
        description="`current`, or `current,legacy` to merge `content_consumption` and `user_courses` as well.",
    )
    merge_source_rows: Literal["delete", "keep"] = Field(
        default="delete", description="What becomes of the source's rows when the target's are in place."
    )

    chunk_rows: Annotated[
        int, _between(1, 10_000, "a chunk is read, journalled and written as one, so it bounds a worker's memory")
    ] = Field(default=1_000, description="Rows per chunk, the unit of journalling.")
    lock_wait: Seconds = Field(
        default=1.0, description="How long a step waits in place for a busy user before it steps aside."
    )
    lock_ttl: Annotated[
        float, _between(1, 3_600, "with less, an ordinary pause of a worker would cost it its locks")
    ] = Field(default=10.0, description="How long a dead worker's users stay locked.")
    max_attempts: Annotated[int, _between(1, 1_000, "the first try is an attempt")] = Field(
        default=8, description="Failed attempts of a step before its run is given up. Waiting is no attempt."
    )
    retry_base: Annotated[float, _between(0.001, 86_400, "doubling needs something to start from")] = Field(
        default=1.0, description="Upper bound of the random wait before the second attempt; doubles every time."
    )
    retry_cap: Annotated[float, _between(0.001, 86_400, "a longer pause is `lern runs retry`")] = Field(
        default=300.0, description="Upper bound of any wait between two attempts."
    )
    max_lost: Annotated[int, _between(1, 1_000, "a worker may always be restarted in the middle of a step")] = Field(
        default=5, description="How often a step's worker may die before the step is given up as the cause."
    )
    sweep_interval: Annotated[float, _between(0.01, 3_600, "due and lost steps wait for the sweeper")] = Field(
        default=1.0, description="Pause between two rounds of the sweeper."
    )
    sweep_days: Annotated[int, _between(0, 36_500, "it is a number of days")] = Field(
        default=30, description="Days after a merge in which late rows of the source are still carried over."
    )
    retention_days: Annotated[
        int, _between(1, 36_500, "a run's journal must outlive the day in which it may have to be undone")
    ] = Field(default=400, description="Days that the ledger keeps ended runs with their journal.")
    verify_after: Seconds = Field(
        default=3_600.0, description="Time after a merge when its rows are checked once more against slow writers."
    )
    max_clock_ahead: Seconds = Field(
        default=60.0, description="How far a cell's write time may be ahead of this clock before the step fails."
    )

    flower_port: Annotated[int, _between(1, 65_535, "it is a port")] = Field(
        default=5555, description="Port of Flower, with its pages of runs and dead letters."
    )
    flower_address: Annotated[str, _matching(r"[A-Za-z0-9.:_-]+", "an address of this machine, as in 0.0.0.0")] = Field(
        default="127.0.0.1",
        description="Address that Flower listens on. Other than loopback it asks who it is: see docs/flower.md.",
    )
    flower_readonly_users: Names = Field(
        default=(),
        description="Users of Flower who may look but not do anything: names or e-mail addresses, with commas.",
        json_schema_extra={"shown": "none"},
    )
    flower_api_token: Secret | None = Field(
        default=None,
        description="What scripts send to `/api/lern` as `Authorization: Bearer …`. Not set: scripts may read on "
        "loopback alone, and change nothing.",
    )

    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="`auto`: text on a terminal, JSON elsewhere."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        default="INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`."
    )

    ownership_write_size: Annotated[int, _between(1, 1_000, "batches are checked between two writes")] = Field(
        default=10, description="Course batches per write of an ownership transfer."
    )
    ownership_statuses: Statuses = Field(
        default=(0, 1),
        description="Statuses of the course batches that change hands: 0 upcoming, 1 ongoing, 2 ended.",
    )
    time_zone: TimeZone = Field(
        default="Asia/Kolkata", description="Sunbird's time zone (`sunbird_time_zone`), in which documents write times."
    )
    user_read_api: ApiPath = Field(
        default="/private/user/v1/read/", description="Path of the user read API; the user's id is appended."
    )
    batch_search_api: ApiPath = Field(
        default="/v1/course/batch/search", description="Path of lms-service's batch search API."
    )

    topic_user_account_merge: TopicName | None = Field(default=None, description="Topic of account merges, read.")
    topic_user_ownership_transfer: TopicName | None = Field(
        default=None, description="Topic of ownership transfers, read."
    )
    topic_coursebatch_job_request: TopicName | None = Field(
        default=None, description="Topic of enrolment sync events, written."
    )
    topic_learning_events_failed: TopicName | None = Field(
        default=None, description="Topic of failed events and dead letters, written."
    )
    topic_issue_certificate_request: TopicName | None = Field(
        default=None, description="Topic of certificate requests for newly completed courses, written."
    )
    topic_telemetry_raw: TopicName | None = Field(
        default=None, description="Topic of AUDIT events for newly completed courses, written."
    )

    table_user_content_consumption: TableName = Field(
        default="user_content_consumption", description="Table of progress per content."
    )
    table_user_enrolments: TableName = Field(default="user_enrolments", description="Table of enrolments.")
    table_user_activity_agg: TableName = Field(
        default="user_activity_agg", description="Table of aggregates per course and unit."
    )
    table_assessment_aggregator: TableName = Field(
        default="assessment_aggregator", description="Table of assessment attempts."
    )
    table_course_batch: TableName = Field(default="course_batch", description="Table of course batches.")
    table_content_consumption: TableName = Field(
        default="content_consumption", description="Legacy table of progress per content."
    )
    table_user_courses: TableName = Field(default="user_courses", description="Legacy table of enrolments.")

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment, `os.environ` unless another is given. A variable set to nothing counts as not set.

        Raises `SettingsError` with one line for every unknown name, every value that cannot be and every
        combination that would be unsafe.
        """
        given = _given(os.environ if environ is None else environ)
        problems = [_unknown(name) for name in given if name not in VARIABLES]
        values: dict[str, Any] = {VARIABLES[name]: value for name, value in given.items() if name in VARIABLES}
        wrong = cls._wrong(values)
        problems += [
            f"{variable(field)}={_shown(field, values.get(field))} {reason}" for field, reason in wrong.items()
        ]
        settings = cls(**{field: value for field, value in values.items() if field not in wrong})
        problems += filter(None, (check(settings) for fields, check in _CHECKS if not wrong.keys() & fields))
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    @classmethod
    def _wrong(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Give the fields whose value cannot be, with the reason."""
        try:
            cls(**values)
        except ValidationError as error:
            return {str(problem["loc"][0]): _reason(problem) for problem in error.errors()}
        return {}

    def environ(self) -> dict[str, str]:
        """Give the variables that another process needs to load the same settings, wherever it runs; no defaults."""
        values = {field: getattr(self, field) for field in type(self).model_fields}
        defaults = {field: info.default for field, info in type(self).model_fields.items()}
        return {variable(field): _text(value) for field, value in values.items() if value != defaults[field]}

    @property
    def out_dir(self) -> Path:
        """Where outgoing events are appended when there is no Kafka."""
        return self.data_dir / "out"

    @property
    def embedded_redis(self) -> bool:
        """Whether the private Redis in the data directory is the broker."""
        return self.broker_url is None

    @property
    def store_url_or_default(self) -> str:
        """The store's URL, ready for SQLAlchemy unless it is Cassandra's."""
        return self.store_url or urls.sqlite_url(self.data_dir / "learners.sqlite")

    @property
    def ledger_url_or_default(self) -> str:
        """The ledger's URL, ready for SQLAlchemy."""
        return self.ledger_url or urls.sqlite_url(self.data_dir / "ledger.sqlite")

    @property
    def kafka_group_or_default(self) -> str:
        """The bridges' consumer group."""
        return self.kafka_group or f"{self.env}-lern-bridge"

    @property
    def tables(self) -> dict[str, str]:
        """The physical name of every learner table, by the name that the documents use."""
        fields = [field for field in type(self).model_fields if field.startswith("table_")]
        return {field.removeprefix("table_"): getattr(self, field) for field in fields}

    def topic(self, name: Topic) -> str:
        """Give the topic's full name, as in `topic("telemetry_raw")` → `dev.telemetry.raw`."""
        return getattr(self, f"topic_{name}") or f"{self.env}.{_TOPICS[name]}"

    def locks_url_or(self, broker_url: str) -> str:
        """Give the locks' Redis; the broker's (embedded or not) unless it is set."""
        return self.locks_url or broker_url

    def relations_url_or(self, broker_url: str) -> str:
        """Give the relations' Redis; database 10 of the broker's (embedded or not) unless it is set."""
        return self.relations_url or urls.with_redis_db(broker_url, RELATIONS_DB)

    def require_shared_ledger(self) -> None:
        """Refuse to work for a broker that other hosts share with a ledger that they do not.

        Raises `SettingsError`. For worker and bridge, at their start.
        """
        if self.broker_url and not urls.is_loopback(self.broker_url) and self.ledger_url is None:
            raise SettingsError(
                f"{variable('ledger_url')} is not set while {variable('broker_url')} "
                f"({urls.redacted_url(self.broker_url)}) can be shared with other hosts: each host would keep a truth "
                "of its own, and merge what another is merging. Set it to the PostgreSQL that all of them use, as in "
                "postgresql+psycopg://lern@host/lern."
            )


VARIABLES: Final[Mapping[str, str]] = {variable(field): field for field in Settings.model_fields}


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(environ.items()) if name.startswith(PREFIX) and value}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Fields of these names are never shown.
_SECRETS: Final = ("_token", "_password")


def _shown(field: str, value: object) -> str:
    return "…" if field.endswith(_SECRETS) else repr(urls.redacted_url(str(value)))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, VARIABLES, n=1)
    hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists them all."
    return f"{name} is not a setting of Lern; {hint}"


def _reason(problem: Mapping[str, Any]) -> str:
    """Say in our own words what Pydantic found."""
    match problem["type"]:
        case "int_parsing" | "int_from_float" | "int_type":
            return "must be a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return "must be a number"
        case "literal_error":
            return f"must be {problem['ctx']['expected']}"
        case _:
            return str(problem["msg"]).removeprefix("Value error, ")


# What is wrong with values that are right one by one: each gives the reason, or None.

_KAFKA_SASL: Final = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
_KAFKA_SSL: Final = ("kafka_ssl_ca", "kafka_ssl_certificate", "kafka_ssl_key")


def _idle_wait(settings: Settings) -> str | None:
    if settings.lock_wait < 10 * settings.lock_ttl:
        return None
    return (
        f"LERN_LOCK_WAIT={settings.lock_wait:g} is ten times LERN_LOCK_TTL={settings.lock_ttl:g} or more: a worker "
        "process would stand idle for a user whose holder is alive and busy. Lower it; the step comes back by itself."
    )


def _capped_at_once(settings: Settings) -> str | None:
    if settings.retry_base <= settings.retry_cap:
        return None
    return (
        f"LERN_RETRY_BASE={settings.retry_base:g} is more than LERN_RETRY_CAP={settings.retry_cap:g}: the first wait "
        "would already be cut off. Raise the cap or lower the base."
    )


def _no_hysteresis(settings: Settings) -> str | None:
    if settings.bridge_resume_at < settings.bridge_pause_at:
        return None
    return (
        f"LERN_BRIDGE_RESUME_AT={settings.bridge_resume_at} is not below LERN_BRIDGE_PAUSE_AT="
        f"{settings.bridge_pause_at}: the bridge would stop and start with every message. Lower it."
    )


def _one_file(settings: Settings) -> str | None:
    file = urls.sqlite_file(settings.ledger_url_or_default)
    if file is None or file != urls.sqlite_file(settings.store_url_or_default):
        return None
    return (
        f"LERN_STORE_URL and LERN_LEDGER_URL are the same SQLite file, {file}: the ledger is written while a "
        "transaction of the store is open, and would wait for itself. Give each a file of its own."
    )


def _one_redis_database(settings: Settings) -> str | None:
    if settings.broker_url is None:
        return None
    broker = urls.redis_place(settings.broker_url)
    if broker != urls.redis_place(settings.relations_url_or(settings.broker_url)):
        return None
    return (
        f"LERN_RELATIONS_URL and LERN_BROKER_URL are the same database, {broker.db} of {broker.host}:{broker.port}: "
        "relations belong to Sunbird's other services, which may empty their database and the queue with it. "
        "Give the broker another database, as in redis://host:6379/0."
    )


def _kafka_login(settings: Settings) -> str | None:
    given = [f for f in _KAFKA_SASL if getattr(settings, f) is not None]
    protocol = settings.kafka_security_protocol
    if not protocol.startswith("SASL_"):
        if not given:
            return None
        named = " and ".join(map(variable, given))
        return (
            f"{named} without SASL in LERN_KAFKA_SECURITY_PROTOCOL={protocol}: nobody would log in. "
            "Set it to SASL_SSL, or SASL_PLAINTEXT, as Kafka's listener is."
        )
    missing = [variable(f) for f in _KAFKA_SASL if f not in given]
    return f"LERN_KAFKA_SECURITY_PROTOCOL={protocol} needs {' and '.join(missing)} as well." if missing else None


def _kafka_certificates(settings: Settings) -> str | None:
    given = [f for f in _KAFKA_SSL if getattr(settings, f) is not None]
    protocol = settings.kafka_security_protocol
    if given and not protocol.endswith("SSL"):
        return (
            f"{' and '.join(map(variable, given))} without SSL in LERN_KAFKA_SECURITY_PROTOCOL={protocol}: nothing "
            "would be encrypted. Set it to SSL or SASL_SSL, as Kafka's listener is."
        )
    if (settings.kafka_ssl_certificate is None) != (settings.kafka_ssl_key is None):
        return "LERN_KAFKA_SSL_CERTIFICATE and LERN_KAFKA_SSL_KEY go together: one is of no use without the other."
    return None


def _search_authority(settings: Settings) -> str | None:
    if settings.search_ca is None or (settings.search_url or "").startswith("https://"):
        return None
    return "LERN_SEARCH_CA without https:// in LERN_SEARCH_URL: nothing would be encrypted. Use https://."


def _one_name(values: Mapping[str, str]) -> str | None:
    by_value: dict[str, list[str]] = {}
    for field, value in values.items():
        by_value.setdefault(value, []).append(variable(field))
    problems = [
        f"{' and '.join(fields)} are both {value!r}: what is meant for one would be found in the other."
        for value, fields in by_value.items()
        if len(fields) > 1
    ]
    return "\n".join(problems) or None


def _one_table(settings: Settings) -> str | None:
    return _one_name({f"table_{name}": physical for name, physical in settings.tables.items()})


def _one_topic(settings: Settings) -> str | None:
    return _one_name({f"topic_{name}": settings.topic(name) for name in _TOPICS})


# With the fields that a check rests on: it is left out when one of them is wrong by itself.
_CHECKS: Final[Sequence[tuple[frozenset[str], Callable[[Settings], str | None]]]] = (
    (frozenset({"lock_wait", "lock_ttl"}), _idle_wait),
    (frozenset({"retry_base", "retry_cap"}), _capped_at_once),
    (frozenset({"bridge_pause_at", "bridge_resume_at"}), _no_hysteresis),
    (frozenset({"data_dir", "store_url", "ledger_url"}), _one_file),
    (frozenset({"broker_url", "relations_url"}), _one_redis_database),
    (frozenset({"kafka_security_protocol", *_KAFKA_SASL}), _kafka_login),
    (frozenset({"kafka_security_protocol", *_KAFKA_SSL}), _kafka_certificates),
    (frozenset({"search_ca", "search_url"}), _search_authority),
    (frozenset(f"table_{name}" for name in Settings().tables), _one_table),
    (frozenset({"env", *(f"topic_{name}" for name in _TOPICS)}), _one_topic),
)


@dataclass(frozen=True)
class Described:
    """One row of the settings table: the variable, its default in words or as a value, what it is for."""

    variable: str
    default: str
    description: str


def described() -> list[Described]:
    """Give every setting, in the order in which the class lists them."""
    return [
        Described(variable(field), _default(field, info.default, info.json_schema_extra), info.description or "")
        for field, info in Settings.model_fields.items()
    ]


def _default(field: str, value: object, extra: object) -> str:
    if isinstance(extra, dict):
        return str(extra["shown"])
    if field.startswith("topic_"):
        return "`{env}." + _TOPICS[field.removeprefix("topic_")] + "`"  # type: ignore[index]
    return "none" if value is None else f"`{value:g}`" if isinstance(value, float) else f"`{_text(value)}`"


_HEAD = """\
# Settings

Environment variables, read once at start. An unknown name that starts with `LERN_`, a value that cannot be, and a
combination that would be unsafe are refused there with the reason; a variable set to nothing counts as not set. Times
are in seconds.

| variable | default | meaning |
|---|---|---|
"""


def markdown() -> str:
    """Render docs/settings.md."""
    rows = (f"| `{row.variable}` | {row.default} | {row.description} |" for row in described())
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
