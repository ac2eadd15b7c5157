"""The same over HTTP, for scripts: JSON as `lern runs list --json` and its like print it.

`Authorization: Bearer` with `LERN_FLOWER_API_TOKEN`, or whatever a browser on our pages sends. 401 for nobody, 403
for who may only look, 400 for what cannot be read, 404 for what is not there, 409 with the reason for what the state
does not allow.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from tornado.web import HTTPError

from lern import actions, events
from lern.errors import Refused
from lern.flower.chosen import BadChoice, Chosen, cursor, written
from lern.flower.dead import became
from lern.flower.page import Page, link, now_ms, number
from lern.ledger import DeadLetter, RunDetail
from lern.ledger.records import DeadState

MOST: Final = 1_000
SCRIPT: Final = "API token"
_DEAD: Final[dict[str, DeadState]] = {"open": "open", "replayed": "replayed"}


class Api(Page):
    """What every answer for scripts shares."""

    def get_current_user(self) -> str | None:
        """Know a script by its token."""
        header = self.request.headers.get("Authorization")
        if self.access.is_token(header):
            return SCRIPT
        if header is not None and header.partition(" ")[0].lower() == "bearer":
            raise HTTPError(401, "The token is not the one in LERN_FLOWER_API_TOKEN")
        return super().get_current_user()

    def check_xsrf_cookie(self) -> None:
        """Ask a script for its token, and a browser for the one that our page gave it."""
        # Asked for first: a wrong token is a 401, whatever else the request lacks.
        if self.current_user != SCRIPT:
            super().check_xsrf_cookie()

    def prepare(self) -> Any:
        """Let nobody in who has not said who they are."""
        if not self.current_user:
            raise HTTPError(401, "Authorization: Bearer with LERN_FLOWER_API_TOKEN was expected")
        return super().prepare()

    def write_error(self, status_code: int, **options: Any) -> None:
        """Say what went wrong, as JSON."""
        raised = options.get("exc_info", (None, None))[1]
        text = raised.get_message() if isinstance(raised, HTTPError) else None
        self.answer({"error": text or self._reason}, status_code)

    def answer(self, value: Any, status: int = 200) -> None:
        """Write JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value, ensure_ascii=False, default=_as_json) + "\n")

    def limit(self) -> int:
        """Read how many are wanted."""
        given = self.one("limit") or "100"
        if not (given.isascii() and given.isdigit() and 1 <= (limit := number(given)) <= MOST):
            raise HTTPError(400, f"limit: 1 to {MOST} was expected")
        return limit

    def only(self, *names: str) -> dict[str, str | None]:
        """Read the query. One that names what we do not know would mean something else than it says: refused."""
        unknown = sorted(self.request.query_arguments.keys() - set(names))
        if unknown:
            raise HTTPError(400, f"unknown: {', '.join(unknown)}; known: {', '.join(names)}")
        return {name: self.one(name) for name in names}

    def body(self, *names: str) -> Mapping[str, Any]:
        """Read a body of JSON, an object with these names at most.

        Whatever it calls itself: `curl -d` calls everything a form. What is left unread would be done otherwise than
        it was asked for. A form's token is no part of it.
        """
        if not self.request.body or self.request.body_arguments.keys() == {"_xsrf"}:
            return {}
        try:
            body = events.strict(self.request.body.decode())
            # Halves of surrogate pairs, which JSON can write and nothing can keep.
            json.dumps(body, ensure_ascii=False).encode()
        except (events.BadEvent, ValueError) as bad:
            raise HTTPError(400, f"the body cannot be read: {bad}") from bad
        if not isinstance(body, dict) or body.keys() - set(names):
            known = f"an object with {', '.join(names)} at most" if names else "none, or an empty object,"
            raise HTTPError(400, f"the body: {known} was expected")
        return body

    async def run(self, run_id: str) -> RunDetail:
        """Read a run; one that is not there is a 404."""
        detail = await self.ask(self.ledger.run, run_id)
        if detail is None:
            raise HTTPError(404, f"there is no run {run_id}")
        return detail

    async def letter(self, dead_id: str) -> DeadLetter:
        """Read a dead letter; one that is not there is a 404."""
        letter = await self.ask(self.ledger.dead_letter, number(dead_id))
        if letter is None:
            raise HTTPError(404, f"there is no dead letter {dead_id}")
        return letter

    def following(self, place: str | None) -> None:
        """Say where the next page is."""
        if place is not None:
            query = {name: self.one(name) for name in self.request.query_arguments}
            self.set_header("Link", f'<{link(self.request.path, **{**query, "after": place})}>; rel="next"')


class RunsApi(Api):
    """`GET /api/lern/runs`."""

    async def get(self) -> None:
        """List runs, the newest first; `Link` leads to the next page."""
        given = self.only("state", "reason", "workflow", "user", "since", "until", "text", "limit", "after")
        try:
            chosen, after = Chosen.of(given).filter, cursor(given["after"])
        except BadChoice as bad:
            raise HTTPError(400, str(bad)) from bad
        page = await self.ask(self.ledger.page, chosen, limit=self.limit(), after=after)
        self.following(written(page.following))
        self.answer([asdict(run) for run in page.runs])


class RunApi(Api):
    """`GET /api/lern/runs/<id>`."""

    async def get(self, run_id: str) -> None:
        """Show a run with its event, steps, attempts and audit."""
        self.answer((await self.run(run_id)).record())


class RunActApi(Api):
    """What is asked for about a run: 202 with the run that was set going."""

    async def act(self, run_id: str) -> actions.Started:
        """Do it. Raises `Refused`."""
        raise NotImplementedError

    async def post(self, run_id: str) -> None:
        """Do it once."""
        await self.run(run_id)
        try:
            started = await self.act(run_id)
        except Refused as refused:
            self.answer({"error": str(refused)}, 409)
            return
        self.answer((await self.run(started.run.id)).record(), 202)


class RetryApi(RunActApi):
    """`POST /api/lern/runs/<id>/retry`; `{"step": …}`: from that step on."""

    async def act(self, run_id: str) -> actions.Started:
        """Retry."""
        step = self.body("step").get("step")
        if step is not None and not isinstance(step, str):
            raise HTTPError(400, "step: a text was expected")
        return await self.ask(actions.retry, self.parts, run_id, self.who, now_ms(), step)


class UndoApi(RunActApi):
    """`POST /api/lern/runs/<id>/undo`."""

    async def act(self, run_id: str) -> actions.Started:
        """Undo."""
        self.body()
        return await self.ask(actions.undo, self.parts, run_id, self.who, now_ms())


class DeadApi(Api):
    """`GET /api/lern/dead`."""

    async def get(self) -> None:
        """List dead letters, those that came last first; `Link` leads to the next page."""
        given = self.only("state", "code", "topic", "text", "limit", "after")
        state = given["state"]
        if state is not None and state not in _DEAD:
            raise HTTPError(400, "state: open or replayed was expected")
        limit = self.limit()
        letters = await self.ask(
            self.ledger.dead_letters,
            state=None if state is None else _DEAD[state],
            code=given["code"],
            topic=given["topic"],
            text=given["text"],
            limit=limit + 1,
            after=self._after(given["after"]),
        )
        if len(letters) > limit:
            self.following(f"{letters[limit - 1].last_at}.{letters[limit - 1].id}")
        self.answer([asdict(letter) for letter in letters[:limit]])

    def _after(self, given: str | None) -> tuple[int, int] | None:
        if given is None:
            return None
        at, _, dead_id = given.partition(".")
        if not (at.isdecimal() and dead_id.isdecimal()):
            raise HTTPError(400, "after: a place that Link gave was expected")
        return int(at[:15]), number(dead_id)


class LetterApi(Api):
    """`GET /api/lern/dead/<id>`."""

    async def get(self, dead_id: str) -> None:
        """Show a dead letter with its bytes."""
        self.answer(asdict(await self.letter(dead_id)))


class ReplayApi(Api):
    """`POST /api/lern/dead/<id>/replay`."""

    async def post(self, dead_id: str) -> None:
        """Replay a dead letter (`{"event": …}`: this event in its place), and wait a little for what becomes of it.

        200 with the letter and its run's id; 202 if no worker has come to it yet; 409 if it is refused again.
        """
        known = await self.letter(dead_id)
        corrected = self._corrected()
        try:
            asked = await self.ask(actions.replay, self.parts, known.id, self.who, corrected)
            letter = await became(self, asked)
        except Refused as refused:
            self.answer({"error": str(refused)}, 409)
            return
        self.answer(asdict(letter or asked.letter), 200 if letter is not None else 202)

    def _corrected(self) -> bytes | None:
        """Read the event that is to be taken in instead: an object, or the text of one."""
        body = self.body("event")
        if "event" not in body:
            return None
        event = body["event"]
        corrected = event.encode() if isinstance(event, str) else events.to_bytes(event)
        try:
            events.parse(corrected)
        except events.BadEvent as bad:
            raise HTTPError(400, f"event: {bad}") from bad
        return corrected


class Unknown(Api):
    """Whatever else is asked for under `/api/lern`."""

    def prepare(self) -> Any:
        """Say that it is not there, to those who may ask."""
        super().prepare()
        raise HTTPError(404, f"{self.request.path}: not there; docs/flower.md lists what is")


def _as_json(value: object) -> object:
    """Give bytes as the text that they are, or in base64 where they are none."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} in a record")
