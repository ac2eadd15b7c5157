"""Tasks to compare with: five that do nothing, and five steps with nothing to do but what every step does."""

from typing import Any, Final

from tasks.app import app, services, step_task
from tasks.step import Result, Work

EMPTY: Final = tuple(f"bench.empty.{number}" for number in range(5))
SHELL: Final = tuple(f"bench.shell.{number}" for number in range(5))
DONE: Final = "{lern}:bench:done"


def _empty(last: bool) -> Any:
    def run(_run: str, _generation: int) -> None:
        if last:
            services().broker.incr(DONE)

    return run


def _shell(_work: Work) -> Result:
    return {}


for _name in EMPTY:
    app.task(_empty(_name == EMPTY[-1]), name=_name)
for _name in SHELL:
    step_task(_name)(_shell)
