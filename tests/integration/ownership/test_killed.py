"""Killed with SIGKILL at every call to store, search and ledger, a transfer and its undo end as if nothing had been."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.batches import World
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[3]
LEAST = {"transfer": 25, "undo": 12}


@pytest.mark.timeout(900)
def test_it_ends_as_if_undisturbed(world: World, own_redis: RedisServer) -> None:
    settings = world.place.settings
    given = [f"{name}={value}" for name in ("store_url", "search_url") if (value := getattr(settings, name))]
    command = [sys.executable, "-m", "tests.integration.ownership.dying", str(settings.data_dir), own_redis.url, *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    for kind, least in LEAST.items():
        undisturbed, *disturbed = [end for end in ends if end["kind"] == kind]
        assert len(disturbed) >= least
        assert undisturbed["state"] == "succeeded"
        assert undisturbed["open"] == 0
        if kind == "undo":
            assert undisturbed["rows"] == undisturbed["before"]
        assert {end["call"]: _unlike(undisturbed, end) for end in disturbed if _unlike(undisturbed, end)} == {}


def _unlike(expected: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    told = expected.keys() - {"point", "call"}
    return {name: (expected[name], end[name]) for name in told if end[name] != expected[name]}
