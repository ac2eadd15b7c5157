"""`make bench`: every table, or those that are named: `python -m bench imports chain`, `python -m bench soak`."""

import importlib
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from bench import aim

console = Console(width=110)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _limit(limit: float) -> str:
    return f"{limit:g}" if limit else ""


def imports() -> None:
    """Print what starting costs."""
    from bench import imports as measured

    table = _table("Starting", "", "ms", "limit")
    for what, milliseconds, limit in measured.measure():
        table.add_row(what, aim.cell(milliseconds, limit, ".0f"), _limit(limit))
    table.add_row("drivers imported by it", " ".join(measured.drivers_imported()) or "none", "none")
    console.print(table)


def chain() -> None:
    """Print what a merge costs through broker and workers."""
    from bench import chain as measured

    table = _table("Through broker and two workers (SQLite and Redis on this machine)", "", "ms", "ratio", "limit")
    for what, milliseconds, ratio, limit in measured.measure():
        table.add_row(what, f"{milliseconds:.2f}", aim.cell(ratio, limit), _limit(limit))
    console.print(table)


def rows() -> None:
    """Print what a row costs as users get bigger."""
    from bench import rows as measured

    headings = ("content rows", "ms of the first", "µs a further row", "ratio", "limit", "MiB", "more", "limit")
    table = _table("One user, one process (SQLite)", *headings)
    for one, ratio, more in measured.measure():
        time = (f"{one.first:.1f}", f"{one.microseconds:.0f}", aim.cell(ratio, measured.FLAT), f"{measured.FLAT:g}")
        memory = (f"{one.peak_mib:.0f}", aim.cell(more, measured.MOST_MIB, "+.0f"), f"{measured.MOST_MIB:g}")
        table.add_row(f"{one.rows:,}", *time, *memory)
    console.print(table)


def bridge() -> None:
    """Print what the bridge takes in."""
    from bench import bridge as measured

    table = _table("The bridge (Kafka, SQLite and Redis on this machine)", "", "events/s", "ratio", "limit")
    found = measured.measure()
    table.add_row("bare apply_async of the chains", f"{found.bare:,.0f}", "1.00", "")
    ratio = aim.cell(found.bridge / found.bare, measured.LIMIT, at_least=True)
    table.add_row("bridge: Kafka, ledger, broker, offsets", f"{found.bridge:,.0f}", ratio, _limit(measured.LIMIT))
    table.caption = f"bridge, resident: {found.at_rest:.0f} MiB at rest, {found.under_load:.0f} MiB under load"
    console.print(table)


def cassandra() -> None:
    """Print what a merge costs on Cassandra."""
    from bench import cassandra as measured

    measured.main()


def ownership() -> None:
    """Print what a transfer of course batches costs."""
    from bench import ownership as measured

    table = _table(f"A transfer of {measured.BATCHES:,} batches", "", "a second", "s", "bare loop, s", "ratio", "limit")
    for one in measured.measure():
        cells = (f"{one.per_second:.0f}", f"{one.transfer:.2f}", f"{one.bare:.2f}", aim.cell(one.ratio, one.limit))
        table.add_row(one.where, *cells, _limit(one.limit))
    console.print(table)
    memory = measured.memory()
    console.print("  ".join(f"{number:,} batches: {mib:.0f} MiB" for number, mib in memory.items()))


def ledger_pages() -> None:
    """Print what pages of the ledger cost."""
    from bench import ledger_pages as measured

    measured.main()


TABLES: dict[str, Callable[[], None]] = {
    "imports": imports,
    "rows": rows,
    "chain": chain,
    "cassandra": cassandra,
    "bridge": bridge,
    "ownership": ownership,
    "ledger_pages": ledger_pages,
}


def main() -> None:
    """Print the tables that are named, or all."""
    for name in sys.argv[1:] or TABLES:
        if name in TABLES:
            TABLES[name]()
        else:
            importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
