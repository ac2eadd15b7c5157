"""Doing something about many runs or dead letters: a page that says how many, then a job that says how far it is.

A job lives in this process alone. If Flower ends, it ends; what it had not come to is as before, and in view.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tornado.web import HTTPError, authenticated

from lern import actions
from lern.errors import LernError, Refused, Unreachable
from lern.flower.chosen import BadChoice, Chosen
from lern.flower.page import Page, link, now_ms, number
from lern.ledger import Counted, Ledger, Run, RunFilter
from lern.ledger.records import DeadState, RunState
from lern.services import Services

AT_ONCE: Final = 50
MOST: Final = 200_000
KEPT: Final = 50
TOLD: Final = 100
_SAMPLE: Final = 5


@dataclass
class Job:
    """A job at work, or over. Written by its thread alone, read by pages.

    `done_word`: what it has done to those that are done. `outcome`: what happens to them then, and where that is
    seen (a link's text and address).
    """

    title: str
    who: str
    total: Counted
    done_word: str
    outcome: str
    links: Sequence[tuple[str, str]]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    done: int = 0
    refused: int = 0
    reasons: list[tuple[str, str]] = field(default_factory=list)
    unsent: int = 0
    error: str | None = None
    over: bool = False

    def refuse(self, what: str, reason: str) -> None:
        """Note one that was refused."""
        self.refused += 1
        if len(self.reasons) < TOLD:
            self.reasons.append((what, reason))


class Jobs:
    """The jobs of this process."""

    def __init__(self, submit: Callable[[Callable[[], None]], object]) -> None:
        """`submit` runs a function in a thread."""
        self._submit = submit
        self._jobs: dict[str, Job] = {}
        self._ending = threading.Event()

    def start(self, job: Job, work: Callable[[Job, Callable[[], bool]], None]) -> None:
        """Begin a job. `work` asks now and then whether it is to end."""
        self._jobs[job.id] = job
        for old in [known for known in self._jobs.values() if known.over][: max(0, len(self._jobs) - KEPT)]:
            del self._jobs[old.id]

        def run() -> None:
            try:
                work(job, self._ending.is_set)
            except LernError as error:
                job.error = str(error)
            except Exception as error:
                job.error = f"{type(error).__name__}: {error}"
                raise
            finally:
                job.over = True

        self._submit(run)

    def get(self, job_id: str) -> Job | None:
        """Give a job, None if this process does not know it."""
        return self._jobs.get(job_id)

    def end(self) -> None:
        """Let every job end after what it is at."""
        self._ending.set()


@dataclass(frozen=True, slots=True)
class Act:
    """What can be done about many runs: the state that it needs, its words, and how it is noted in the ledger."""

    name: str
    state: RunState
    verb: str
    note: Callable[[Services, str, str, int], Run]


ACTS: Final = {
    "retry": Act("retry", "failed", "Retry", actions.retried),
    "hurry": Act("hurry", "waiting", "Try now", actions.hurried),
}


def carry_out(parts: Services, act: Act, runs: Iterator[Run], job: Job, ending: Callable[[], bool]) -> None:
    """Do it for every run, some at a time: noted in the ledger each by itself, sent together."""
    noted: list[Run] = []
    try:
        for run in runs:
            if ending():
                job.error = "Flower was ended; the rest is as before."
                break
            try:
                noted.append(act.note(parts, run.id, job.who, now_ms()))
            except Refused as refused:
                job.refuse(run.id, str(refused))
            if len(noted) >= AT_ONCE:
                _send(parts, noted, job)
    except Unreachable as error:
        job.error = f"{error}. The rest is as before."
    finally:
        # What is noted has begun, whatever became of the next one.
        _send(parts, noted, job)


def _send(parts: Services, noted: list[Run], job: Job) -> None:
    if noted:
        job.unsent += sum(not started.sent for started in actions.send(parts, noted))
        job.done += len(noted)
        noted.clear()


def each(ledger: Ledger, chosen: RunFilter, asked: int) -> Iterator[Run]:
    """Go through the runs of a choice as they stood when it was asked for (ms), from the newest to the oldest.

    What has moved on since, as one that failed only then or failed again, was not meant.
    """
    after = None
    while True:
        page = ledger.page(chosen, limit=200, after=after)
        yield from (run for run in page.runs if run.updated_at <= asked)
        after = page.following
        if after is None:
            return


class BulkRuns(Page):
    """Retry (or try now) many runs: a selection, or all that match."""

    tab = "runs"

    @authenticated
    async def get(self, name: str) -> None:
        """Say how many, and ask."""
        self.require_actor()
        act = ACTS[name]
        ids = self.get_query_arguments("run")
        chosen = self._chosen(act, {key: self.one(key) for key in self.request.query_arguments})
        counted = Counted(len(ids)) if ids else await self.ask(self.ledger.count, chosen.filter, limit=MOST)
        self.show(
            "lern_confirm.html",
            title=f"{act.verb}: {{}} {act.state} {{}}",
            verb=act.verb,
            counted=counted,
            noun=("run", "runs"),
            action=self.reverse_url("bulk", name),
            fields=[("run", run_id) for run_id in ids] or list(chosen.given.items()),
            described="" if ids else str(chosen),
            sample=await self.ask(_sample, self.ledger, chosen.filter, ids),
            back=self.reverse_url(act.state),
        )

    @authenticated
    async def post(self, name: str) -> None:
        """Begin the job, and lead to its page."""
        act = ACTS[name]
        ids = self.get_body_arguments("run")
        chosen = self._chosen(act, {key: self.get_body_argument(key) for key in self.request.body_arguments})
        ledger, parts, asked = self.ledger, self.parts, now_ms()
        counted = Counted(len(ids)) if ids else await self.ask(ledger.count, chosen.filter, limit=MOST)
        job = Job(
            f"{act.verb} {act.state} runs",
            self.who,
            counted,
            "started",
            "The workers carry them out now.",
            [(f"Still {act.state}", self.reverse_url(act.state)), ("Runs", self.reverse_url("runs"))],
        )

        def work(job: Job, ending: Callable[[], bool]) -> None:
            runs = _named(ledger, ids, job) if ids else each(ledger, chosen.filter, asked)
            carry_out(parts, act, runs, job, ending)

        self.application.jobs.start(job, work)
        self.go("job", job.id)

    def _chosen(self, act: Act, given: dict[str, str | None]) -> Chosen:
        chosen = Chosen.of({**given, "state": act.state})
        try:
            _ = chosen.filter
        except BadChoice as bad:
            raise HTTPError(400, str(bad)) from bad
        return chosen


def _named(ledger: Ledger, ids: Sequence[str], job: Job) -> Iterator[Run]:
    for run_id in dict.fromkeys(ids):
        run = ledger.peek(run_id)
        if run is None:
            job.refuse(run_id, "the ledger does not know it")
        else:
            yield run


def _sample(ledger: Ledger, chosen: RunFilter, ids: Sequence[str]) -> list[Run]:
    if not ids:
        return list(ledger.page(chosen, limit=_SAMPLE).runs)
    return [run for run_id in ids[:_SAMPLE] if (run := ledger.peek(run_id)) is not None]


class BulkDead(Page):
    """Replay many dead letters: a selection, or all that match."""

    tab = "dead"

    @authenticated
    async def get(self) -> None:
        """Say how many, and ask."""
        self.require_actor()
        ids, code, text = self._ids(self.get_query_arguments("dead")), self.one("code"), self.one("text")
        counted = Counted(len(ids)) if ids else await self.ask(self.ledger.count_dead, OPEN, code, text, limit=MOST)
        chosen = [(name, value) for name, value in (("code", code), ("text", text)) if value]
        self.show(
            "lern_confirm.html",
            title="Replay: {} dead {}",
            verb="Replay",
            counted=counted,
            noun=("letter", "letters"),
            action=self.reverse_url("bulk_dead"),
            fields=[("dead", str(dead_id)) for dead_id in ids] or chosen,
            described="" if ids else ", ".join(f"{name} {value}" for name, value in chosen),
            sample=[],
            back=self.reverse_url("dead"),
        )

    @authenticated
    async def post(self) -> None:
        """Begin the job, and lead to its page."""
        ids = self._ids(self.get_body_arguments("dead"))
        code, text = (self.get_body_argument(name, "") or None for name in ("code", "text"))
        parts, place = self.parts, self.reverse_url("dead")
        counted = Counted(len(ids)) if ids else await self.ask(self.ledger.count_dead, OPEN, code, text, limit=MOST)
        job = Job(
            "Replay dead letters",
            self.who,
            counted,
            "sent",
            "The workers judge each of them now: one that becomes a run is among the replayed, one that is refused "
            "again stays open, and says why.",
            [("Still open", link(place, code=code, text=text)), ("Replayed", link(place, state="replayed"))],
        )

        def work(job: Job, ending: Callable[[], bool]) -> None:
            _replay(parts, iter(ids) if ids else _open(parts.ledger, code, text), job, ending)

        self.application.jobs.start(job, work)
        self.go("job", job.id)

    def _ids(self, given: Sequence[str]) -> list[int]:
        return list(dict.fromkeys(number(text) for text in given if text.isascii() and text.isdigit()))


OPEN: Final[DeadState] = "open"


def _open(ledger: Ledger, code: str | None, text: str | None) -> Iterator[int]:
    after: Any = None
    while letters := ledger.dead_letters(state=OPEN, code=code, text=text, limit=200, after=after):
        yield from (letter.id for letter in letters)
        after = (letters[-1].last_at, letters[-1].id)


def _replay(parts: Services, ids: Iterator[int], job: Job, ending: Callable[[], bool]) -> None:
    for dead_id in ids:
        if ending():
            job.error = "Flower was ended; the rest is as before."
            return
        try:
            actions.replay(parts, dead_id, job.who)
            job.done += 1
        except Refused as refused:
            job.refuse(f"dead letter {dead_id}", str(refused))
        except Unreachable as error:
            job.error = f"{error}. The rest is as before."
            return


class JobPage(Page):
    """How far a job is."""

    tab = "runs"

    @authenticated
    async def get(self, job_id: str) -> None:
        """Show it."""
        job = self.application.jobs.get(job_id)
        if job is None:
            raise HTTPError(
                404,
                "This Flower knows no such job: it was restarted since. What the job had done is in "
                "the ledger, and what it had not come to is as before.",
            )
        self.show("lern_job.html", job=job)
