"""`make bench`: prints every table."""

from rich.console import Console
from rich.table import Table

from bench import chain


def main() -> None:
    """Measure and print."""
    console = Console()
    table = Table(title="Through broker and two workers (SQLite, Redis on this machine)")
    for heading in ("", "ms", "ratio", "limit"):
        table.add_column(heading, justify="left" if not heading else "right")
    for what, milliseconds, ratio, limit in chain.measure():
        table.add_row(what, f"{milliseconds:.2f}", f"{ratio:.2f}", f"{limit:.1f}" if limit else "")
    console.print(table)


if __name__ == "__main__":
    main()
