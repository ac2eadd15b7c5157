"""Flower's page of a task, for a task that is a step of a run: with the run's state and its buttons."""

import re
from dataclasses import dataclass
from typing import Any, Final

from flower.utils.tasks import get_task_by_id
from tornado.web import authenticated

from lern.flower.page import Page, link
from lern.ledger import Run
from lern.undo import UNDOABLE

_ID: Final = re.compile(r"(?P<run>.{1,200})\.(?P<generation>\d{1,9})\.(?P<step>[a-z_]+\.[a-z_]+)")


@dataclass(frozen=True, slots=True)
class StepOfRun:
    """The step that a task is. `current`: the run stands at this step of this generation."""

    run: Run
    generation: int
    step: str

    @property
    def current(self) -> bool:
        """Whether the run stands where the task was."""
        return (self.run.generation, self.run.step) == (self.generation, self.step)

    @property
    def undoable(self) -> bool:
        """Whether an undo may be asked for; the page that asks knows whether it is possible as things stand."""
        return self.run.state == "succeeded" and self.run.workflow in UNDOABLE


class TaskPage(Page):
    """A task. Flower remembers the newest since its start only; the ledger knows the runs of all."""

    tab = "tasks"

    @authenticated
    async def get(self, task_id: str) -> None:
        """Show Flower's page, or the run's where Flower does not remember the task."""
        step = await self._step(task_id)
        task = get_task_by_id(self.application.events, task_id)
        if task is None:
            if step is None:
                self.set_status(404)
                self.render("404.html", message=f"Unknown task '{task_id}'")
                return
            self.say(
                f"Flower does not remember task {task_id}: it keeps only the newest since its start. This is its run.",
                "info",
            )
            self.go("run", step.run.id)
            return
        self.render("task.html", task=self.format_task(task), read_only=True, lern=step, may_act=self.may_act)

    async def _step(self, task_id: str) -> StepOfRun | None:
        found = _ID.fullmatch(task_id)
        if found is None:
            return None
        run = await self.ask(self.ledger.peek, found["run"])
        return None if run is None else StepOfRun(run, int(found["generation"]), found["step"])

    def render(self, *names: str, **values: Any) -> Any:
        """Give Flower's template what our lines in it need."""
        return super().render(*names, **{"lern": None, "link": link, **values})
