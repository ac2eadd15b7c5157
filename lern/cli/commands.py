"""Which commands there are, in which panels, and the module of each; imported when it is called."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from lern.cli.problems import told

TRY: Final = "Try it"
ADMIN: Final = "Look, retry, undo"
OPERATOR: Final = "Run it"
DATA: Final = "Learner rows and schemas"

COMPLETION: Final = ("install_completion", "show_completion")


@dataclass(frozen=True)
class Entry:
    """A command as the help shows it. Its module has the Typer application `app`."""

    panel: str
    help: str


COMMANDS: Final = {
    "demo": Entry(TRY, "Merge a sample learner's two accounts and show them before and after."),
    "process": Entry(TRY, "Carry out every event of a file, wait for the end, and sum up."),
    "merge": Entry(ADMIN, "Merge one account into another."),
    "transfer": Entry(ADMIN, "Hand a user's course batches over to another."),
    "ownership": Entry(ADMIN, "Check who owns which course batches, by the database and by search."),
    "runs": Entry(ADMIN, "List runs, show one with all its steps, retry or undo it."),
    "dead": Entry(ADMIN, "List events that could not become a run, show one, replay it."),
    "up": Entry(OPERATOR, "Start everything that is embedded: Redis, worker, bridge and Flower, supervised."),
    "down": Entry(OPERATOR, "End what `lern up` has started."),
    "status": Entry(OPERATOR, "Say how what `lern up` has started is doing."),
    "worker": Entry(OPERATOR, "Start a worker, which carries out the steps of runs."),
    "bridge": Entry(OPERATOR, "Start the bridge, which turns events into runs."),
    "beat": Entry(OPERATOR, "Start beat, which sends upkeep to the workers when it is time."),
    "flower": Entry(OPERATOR, "Start Flower, with the pages of runs, failed runs and dead letters."),
    "doctor": Entry(OPERATOR, "Check every connection and say what to do about what is wrong."),
    "rows": Entry(DATA, "Load learner rows from a file, or dump them to one."),
    "migrate": Entry(DATA, "Create the schemas, or bring them to this version's."),
    "version": Entry(OPERATOR, "Print the versions of Lern and of what it stands on."),
}


class Commands(TyperGroup):
    """The group of all commands: listed from the table, loaded when called, every error told in one line."""

    def __init__(self, **attributes: Any) -> None:
        """List the commands without importing them."""
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=entry.help, rich_help_panel=entry.panel)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - its context is not the same in every Typer
        """Give the commands in the order of the table."""
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of what the help shows, and go on."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = loaded(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Call the command; what goes wrong becomes one line and an exit code."""
        with told():
            return super().invoke(ctx)


def loaded(name: str) -> Any:
    """Import a command's module and give the command, named and described as in the table."""
    application: typer.Typer = importlib.import_module(f"lern.cli.{name}").app
    command = typer.main.get_command(application)
    command.name = name
    command.help = command.help or COMMANDS[name].help
    # Completion is the whole program's: there it is offered, not once more by each command.
    command.params = [one for one in command.params if one.name not in COMPLETION]
    for one in (command, *getattr(command, "commands", {}).values()):
        one.help = _filled(one.help)
    return command


def _filled(text: str) -> str:
    """Leave lines to be broken where the terminal ends: Typer keeps the source's but in the first paragraph."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


app = typer.Typer(
    name="lern",
    cls=Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def lern(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Sunbird Lern's background work: learners' accounts become one, and nothing gets lost.

    Without any settings everything runs on this machine, in the directory .lern.
    Settings are environment variables: see docs/settings.md.
    """
    if version:
        from lern.cli.version import own_version

        typer.echo(own_version())
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, for `python -m lern.cli`."""
    app(arguments)
