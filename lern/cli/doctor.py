"""`lern doctor`."""

from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.text import Text

from lern import phrases
from lern.cli import console
from lern.cli.problems import FAILED
from lern.cli.stack import with_broker
from lern.doctor import examine
from lern.doctor.finding import Finding
from lern.embedded import EmbeddedError
from lern.errors import SettingsError
from lern.settings import Settings

app = typer.Typer()

MARKS: Final = {"ok": ("✔", "green"), "warning": ("!", "yellow"), "problem": ("✘", "bold red")}


@app.command()
def doctor(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON array of objects.")] = False
) -> None:
    """Check every connection, the versions, the disk and the clocks, and say what to do about what is wrong.

    Nothing is changed. The exit code is 1 if there is a problem.
    """
    findings = list(_findings())
    if as_json:
        console.print_json({"id": str(number), **asdict(found)} for number, found in enumerate(findings, 1))
    else:
        _print(findings)
    if any(found.level == "problem" for found in findings):
        raise typer.Exit(FAILED)


def _findings() -> list[Finding]:
    try:
        settings = Settings.load()
    except SettingsError as error:
        advice = "mend the environment; docs/settings.md lists every variable"
        return [Finding("settings", "problem", line, advice) for line in str(error).splitlines()]
    try:
        with with_broker(settings) as named:
            return [Finding("settings", "ok", f"environment {settings.env}"), *examine(named, str(named.broker_url))]
    except EmbeddedError as error:
        return [Finding("broker", "problem", str(error), "or set LERN_BROKER_URL to a Redis of your own")]


def _print(findings: list[Finding]) -> None:
    screen = console.out()
    table = console.table("", "what", "found")
    table.show_header = False
    for found in findings:
        mark, style = MARKS[found.level]
        detail = console.text(found.detail)
        if found.advice:
            detail.append(f"\n→ {found.advice}", style="bold")
        table.add_row(Text(mark, style), found.name, detail)
    screen.print(table)
    problems = sum(found.level == "problem" for found in findings)
    warnings = sum(found.level == "warning" for found in findings)
    style = "bold red" if problems else "bold yellow" if warnings else "bold green"
    said = [phrases.many(problems, "problem"), phrases.many(warnings, "warning")]
    screen.print(Text("\n" + (", ".join(said) if problems or warnings else "all is well"), style))
