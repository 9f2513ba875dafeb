"""The alert rules and the dashboard that are shipped: whole, and about figures that there are."""

import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import yaml
from eventbus_prometheus import BusCollector, Durations

from eventbus import EventBus, Topic

FOLDER = resources.files("eventbus_prometheus")
ALERTS: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = ALERTS["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def expressions() -> Iterator[str]:
    """Give every query of the two files."""
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in PANELS for target in panel["targets"])
    yield from (one["definition"] for one in DASHBOARD["templating"]["list"] if "definition" in one)


@pytest.fixture
async def collected() -> dict[str, set[str]]:
    """Collect a bus that has done something: the names of samples, and their labels."""
    durations = Durations()
    bus = EventBus(middleware=[durations])

    @bus.on(Topic("jobs", int))
    async def work(job: int) -> None: ...

    async with bus:
        await bus.publish(Topic("jobs", int), 1)
    metrics = BusCollector(bus, durations).collect()
    return {sample.name: set(sample.labels) for metric in metrics for sample in metric.samples}


async def test_every_query_asks_for_what_is_collected(collected: dict[str, set[str]]) -> None:
    """A figure that was renamed would leave a rule that never fires, and a panel that is empty."""
    asked = {name for text in expressions() for name in re.findall(r"\beventbus_\w+", text)}

    assert asked
    assert asked - collected.keys() == set()


async def test_every_query_selects_by_labels_there_are(collected: dict[str, set[str]]) -> None:
    """A label that is not there selects nothing."""
    for text in expressions():
        for name, selector in re.findall(r"\b(eventbus_\w+)\{(.*?)\}", text):
            assert set(re.findall(r"(\w+)=", selector)) <= collected[name]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    """Who is woken by it finds both."""
    assert rule["annotations"].keys() == {"summary", "description"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "$labels" in rule["annotations"]["summary"]


def is_balanced(text: str) -> bool:
    """Ask whether every bracket that is opened is closed, in order, outside of quotes."""
    brackets = re.sub(r'"[^"]*"|[^][(){}]', "", text)
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", brackets)) != brackets:
        brackets = shorter
    return not brackets


def test_every_query_is_balanced() -> None:
    """A bracket too few, and Prometheus loads none of the rules."""
    assert [text for text in expressions() if not is_balanced(text)] == []
    assert not is_balanced("sum(rate(x[5m])")


def test_panels_do_not_overlap() -> None:
    """The dashboard looks as it was meant."""
    places = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in PANELS
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]

    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS) == 12
