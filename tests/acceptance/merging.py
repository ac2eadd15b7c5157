"""A program that carries out one run, as a worker's child does, and tells what it came to.

    python -m tests.acceptance.merging RUN_ID

Settings come from the environment. One line of JSON: the run's state, and the most memory (KiB) that the process has
had in its life.
"""

import json
import re
import sys
from contextlib import closing
from pathlib import Path

from lern import log
from lern.services import Services
from lern.settings import Settings
from tests.acceptance.place import Place


def main() -> None:
    settings = Settings.load()
    log.configure(settings)
    with closing(Place(Services(settings))) as place:
        run = place.carry_out(sys.argv[1])
    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    print(json.dumps({"state": run.state, "peak": int(peak)}))  # noqa: T201 - this is what the program is for


if __name__ == "__main__":
    main()
