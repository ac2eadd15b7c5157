"""`python -m lern.cli` is `lern`."""

from lern.cli.commands import main

main()
