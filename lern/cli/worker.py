"""`lern worker`: a Celery worker, with the private Redis beside it where no broker is set."""

from typing import Annotated

import typer

from lern import metrics_dir
from lern.cli.children import Child, celery_worker, environ, forwarded, replace_with
from lern.cli.node_name import node_name
from lern.cli.options import LogLevel
from lern.cli.stack import in_use, prepare, with_broker
from lern.settings import Settings

app = typer.Typer()


@app.command()
def worker(
    *,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, max=1000, help="Processes; LERN_CONCURRENCY otherwise.")
    ] = None,
    loglevel: LogLevel = None,
) -> None:
    """Start a worker, which carries out the steps of runs, until Ctrl-C or SIGTERM.

    With LERN_BROKER_URL set, this process becomes the Celery worker. Otherwise it starts the private Redis in
    the data directory, and ends it when the worker has ended.
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    prepare(settings)
    # Needed only by who asks for the numbers.
    numbers = metrics_dir.new(settings.data_dir / "metrics") if settings.worker_port is not None else None
    shared = {} if numbers is None else numbers.environ
    with node_name(settings.data_dir) as name:
        if not settings.embedded_redis:
            command = celery_worker(settings, name, concurrency=concurrency, loglevel=loglevel)
            replace_with(command, environ(settings) | shared)
        with with_broker(settings) as named, in_use(settings) as use:
            command = celery_worker(named, name, concurrency=concurrency, loglevel=loglevel)
            inherited = [use, name.descriptor] + ([] if numbers is None else [numbers.descriptor])
            with Child(command, environ(named) | shared, inherited=inherited) as child:
                code = forwarded(child)
    raise typer.Exit(code)
