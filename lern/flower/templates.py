"""Our templates before Flower's, and the few places where a line of ours goes into one of Flower's.

Flower's templates are read from where it is installed, so a newer Flower brings its own. If a place is not
there any more, the start fails and names it, instead of showing pages without a way to the runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import flower
from tornado import template

from lern.errors import LernError

OURS: Final = Path(__file__).parent / "templates"
STATIC: Final = Path(__file__).parent / "static"
FLOWERS: Final = Path(flower.__file__).parent / "templates"


class UnknownFlower(LernError):
    """The installed Flower is not one that we know our way about in."""

    code = "UNKNOWN_FLOWER"


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a line goes into a template of Flower's: before the first `before` that follows `after`."""

    after: str
    before: str
    line: str


SEAMS: Final[Mapping[str, tuple[Seam, ...]]] = {
    "base.html": (Seam("css/flower.css", "</head>", '{% include "lern_head.html" %}'),),
    "navbar.html": (Seam("reverse_url('broker')", "</ul>", '{% include "lern_tabs.html" %}'),),
    "task.html": (
        Seam('class="detail-actions"', "{% if not read_only %}", '{% include "lern_task_actions.html" %}'),
        Seam("</header>", "<section", '{% include "lern_task_run.html" %}'),
    ),
}


class Templates(template.Loader):
    """Finds templates: ours by names that begin with `lern_`, Flower's by all others."""

    def __init__(self) -> None:
        """Raise `UnknownFlower` if a seam is not where it is expected."""
        super().__init__(str(FLOWERS))
        for name in SEAMS:
            sewn(name, (FLOWERS / name).read_text())

    def _create_template(self, name: str) -> template.Template:
        directory = OURS if name.startswith("lern_") else FLOWERS
        source = (directory / name).read_text()
        return template.Template(sewn(name, source), name=name, loader=self)

    def load(self, name: str, parent_path: str | None = None) -> Any:
        """Give a template by its name."""
        return super().load(name, parent_path)


def sewn(name: str, source: str) -> str:
    """Put our lines into a template of Flower's. Raises `UnknownFlower`."""
    for seam in SEAMS.get(name, ()):
        start = source.find(seam.after)
        place = source.find(seam.before, start)
        if start < 0 or place < 0:
            version = flower.__version__
            raise UnknownFlower(f"Flower {version}: {seam.after!r} … {seam.before!r} is not in its {name}")
        source = source[:place] + seam.line + "\n" + source[place:]
    return source
