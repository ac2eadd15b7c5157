"""The command `lern`. It enqueues through the client, and starts worker and bridge as processes of their own.

Every command lives in a module that is imported when the command is called: `lern --help` must not pay for
drivers, and neither must a command for what another one needs.
"""

from lern.cli.commands import app

__all__ = ["app"]
