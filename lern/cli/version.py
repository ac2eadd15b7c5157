"""`lern version`."""

import platform
from importlib import metadata
from typing import Final

import typer

app = typer.Typer()

PACKAGES: Final = ("celery", "kombu", "redis", "sqlalchemy", "cassandra-driver", "confluent-kafka", "elasticsearch")


def own_version() -> str:
    """Give Lern's version; of a source tree that was never installed nobody knows it."""
    return of("lern") or "unknown (not installed)"


def of(package: str) -> str | None:
    """Give the version of an installed distribution, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@app.command()
def version() -> None:
    """Print the versions of Lern and of what it stands on."""
    typer.echo(f"lern {own_version()}")
    typer.echo(f"python {platform.python_version()}")
    for package in PACKAGES:
        typer.echo(f"{package} {of(package) or 'not installed'}")
