"""`lern beat`: the clock that sends upkeep to the workers."""

import typer

from lern.cli.children import Child, celery_beat, environ, forwarded, replace_with
from lern.cli.options import LogLevel
from lern.cli.stack import in_use, with_broker
from lern.settings import Settings

app = typer.Typer()


@app.command()
def beat(*, loglevel: LogLevel = None) -> None:
    """Send upkeep to the workers when it is time, until Ctrl-C or SIGTERM: late rows, old runs, stuck locks.

    One is enough for an installation, and a second does no harm. It keeps no file: what is due goes by the clock.
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    if not settings.embedded_redis:
        replace_with(celery_beat(settings, loglevel=loglevel), environ(settings))
    with (
        with_broker(settings) as named,
        in_use(settings) as use,
        Child(celery_beat(named, loglevel=loglevel), environ(named), inherited=(use,)) as child,
    ):
        code = forwarded(child)
    raise typer.Exit(code)
