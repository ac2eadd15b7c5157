"""How Celery is called."""

import pytest

from lern.cli.children import celery_beat, celery_worker
from lern.cli.node_name import NodeName
from lern.settings import Settings


@pytest.mark.parametrize(("format_", "quiet"), [("json", True), ("text", False)])
def test_celery_s_banner_is_left_out_where_every_line_is_to_be_json(format_: str, quiet: bool) -> None:
    settings = Settings.load({"LERN_LOG_FORMAT": format_})
    name = NodeName("lern-1@%h", -1)
    for command, kind in ((celery_worker(settings, name), "worker"), (celery_beat(settings), "beat")):
        assert ("--quiet" in command[: command.index(kind)]) is quiet
