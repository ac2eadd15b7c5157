"""A bridge that is killed at one point of its work: `python -m tests.acceptance.dying_bridge POINT`.

Points are counted over the calls of one batch: before the first of them is 0, after the last 5.
"""

import os
import signal
import sys
from typing import Any

from workflows import intake, kafka_bridge
from workflows.partitions import Partitions

STAGES: list[tuple[Any, str]] = [
    (intake, "judge_all"),
    (intake, "enter"),
    (intake, "send"),
    (intake, "announce"),
    (Partitions, "commit"),
]


def die_at(point: int) -> None:
    """See to it that this process kills itself there."""
    owner, name = STAGES[min(point, len(STAGES) - 1)]
    real = getattr(owner, name)

    def dying(*arguments: Any) -> Any:
        if point == len(STAGES):
            real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)


if __name__ == "__main__":
    die_at(int(sys.argv.pop(1)))
    sys.exit(kafka_bridge.main())
