"""Tests are found whatever the environment of whoever runs them says."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def test_settings_and_servers_named_in_the_environment_stop_no_test_from_being_found() -> None:
    environment = {**os.environ, "LERN_TEST_KAFKA": "localhost:9092", "LERN_CHUNK_ROWS": "no number"}
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "tests/acceptance/test_killed_workers.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
