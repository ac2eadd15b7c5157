"""deploy/: what Prometheus and Grafana ask for is what Lern says, and leads to a page that tells what to do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from ruamel.yaml import YAML

from lern import metrics

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
DASHBOARD: Final = DEPLOY / "grafana" / "lern.json"
# What Prometheus itself puts on every series.
OF_PROMETHEUS: Final = {"job", "instance"}
OUTCOMES: Final = {
    "lern_runs_total": set(get_args(metrics.RunOutcome)),
    "lern_events_total": set(get_args(metrics.EventOutcome)),
    "lern_upkeep_total": set(get_args(metrics.UpkeepOutcome)),
    "lern_steps_total": {"done", "ended", "aside", "failed"},
    "lern_rows_total": {"read", "copied", "merged", "left", "deleted"},
}


def read(path: str) -> Any:
    return YAML(typ="safe").load(DEPLOY / path)


def series() -> dict[str, set[str]]:
    """Give every series that Lern has, with its labels."""
    found: dict[str, set[str]] = {}
    for one in vars(metrics).values():
        if isinstance(one, MetricWrapperBase):
            labels = {*one._labelnames, *OF_PROMETHEUS}
            match one:
                case Counter():
                    found[f"{one._name}_total"] = labels
                case Gauge():
                    found[one._name] = labels
                case Histogram():
                    found |= {f"{one._name}_{part}": labels | {"le"} for part in ("bucket", "sum", "count")}
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in read("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Give every query of alerts and dashboard, by who asks."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


QUERIES: Final = [pytest.param(query, id=f"{place}-{name}") for place, (name, query) in enumerate(queries())]


def test_there_is_something_to_ask_for() -> None:
    assert {"lern_runs_total", "lern_queue_length", "lern_step_seconds_bucket"} <= series().keys()


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_metrics_and_labels_that_exist(query: str) -> None:
    known = series()
    asked = re.findall(r"\b(lern_\w+|up)(?:\{([^}]*)\})?", query)

    assert asked
    labels = OF_PROMETHEUS.union(*(known.get(name, set()) for name, _ in asked))
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= labels, group
    for name, matchers in asked:
        assert name == "up" or name in known
        for label, _, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', matchers):
            assert label in known.get(name, OF_PROMETHEUS)
            if label == "outcome":
                assert set(value.split("|")) <= OUTCOMES[name]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(query for query in (target["expr"] for p in panels() for target in p.get("targets", ())))

    for one in vars(metrics).values():
        if isinstance(one, MetricWrapperBase):
            assert re.search(rf"\b{one._name}", shown), one._name


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in panels():
        for target in panel.get("targets", ()):
            kept = {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_every_alert_leads_to_a_section_of_the_operations_page() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for rule in alerts():
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, anchor
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_every_alert_is_in_the_table_of_the_operations_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()

    for rule in alerts():
        assert f"`{rule['alert']}`" in page


def test_what_is_scraped_is_what_the_compose_file_serves() -> None:
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]

    for job in read("prometheus/prometheus.yml")["scrape_configs"]:
        [found] = job["dns_sd_configs"]
        [name] = found["names"]
        assert job["job_name"] == f"lern-{name}"
        assert services[name]["environment"][f"LERN_{name.upper()}_PORT"] == found["port"]
        assert services[name]["environment"][f"LERN_{name.upper()}_HOST"] == "0.0.0.0"  # noqa: S104 - in its container


def test_no_two_panels_are_in_the_same_place() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in ((x, y) for x in _reach(place, "x", "w") for y in _reach(place, "y", "h")):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]
    ids = sorted(panel["id"] for panel in panels())
    assert all(one < other for one, other in pairwise(ids))


def _reach(place: dict[str, int], start: str, size: str) -> range:
    return range(place[start], place[start] + place[size])


def test_prometheus_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rules = [{"record": f"asked:{place}", "expr": query} for place, (_, query) in enumerate(queries())]
    asked = tmp_path / "asked.yml"
    asked.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    directory = DEPLOY / "prometheus"
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", asked),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run([promtool, *arguments], cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
