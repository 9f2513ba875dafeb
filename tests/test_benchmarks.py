"""Holds the benchmarks to what they say: they run, count every delivery, and judge as they should.

Nothing here measures: how fast the bus is, `make bench` tells.
"""

import json
import platform
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from math import inf, isnan, nan
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eventbus.topics import matches
from tests.benchmarks import chart, durable, leads, league, machine, readme, table
from tests.benchmarks.chart import Bar, Panel
from tests.benchmarks.contenders import BUS, CONTENDERS, PEERS, Contender
from tests.benchmarks.contenders.contender import Publish
from tests.benchmarks.floors import Tally
from tests.benchmarks.guard import Comparison, compared
from tests.benchmarks.leads import Lead
from tests.benchmarks.measure import Case, TooSlow, WrongCount, by_case, measure, run, within
from tests.benchmarks.order import Event
from tests.benchmarks.patterns import TOPICS, Kind, patterns, topics
from tests.benchmarks.table import Row, per
from tests.benchmarks.workloads import fan_out, named, nested_orders, ten_to_ten

ROOT = Path(__file__).parents[1]

INSTALLED = [one for one in CONTENDERS if one.is_installed]

SVG = "{http://www.w3.org/2000/svg}"


# --- a run ----------------------------------------------------------------------------------------


def test_a_quick_run_of_the_core_delivers_everything(tmp_path: Path) -> None:
    """One command measures, judges and draws; it fails where a delivery is missing."""
    report, picture = tmp_path / "report.json", tmp_path / "picture.svg"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--core", "--rounds", "1"]

    done = subprocess.run(  # noqa: S603 - this interpreter, our own module
        [*command, "--json", str(report), "--svg", str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    measured = {row["what"]: row["measured"] for row in written["rows"]}
    assert measured.keys() == {row.what for row in table.ROWS}
    assert None not in measured.values()
    least = {one["what"]: one["measured"] for one in written["the smallest code"]}
    unmeasured = {what for what, measured in least.items() if not measured}
    assert unmeasured <= {lead.what for lead in leads.LEADS}  # which take the other libraries
    assert ElementTree.parse(picture).getroot().tag == f"{SVG}svg"  # noqa: S314 - drawn by us


@pytest.mark.filterwarnings("ignore")  # those of other libraries
def test_the_store_is_measured_beside_the_same_work_by_hand() -> None:
    """One round of everything in its table: each event is there, and arrives."""
    samples = by_case(measure(durable.CASES, rounds=1, shrink=20))
    lines = list(durable.lines(samples))

    assert len(lines) == len(durable.ROWS) + 2
    assert lines[-1].endswith(" ms")
    assert all(row.what in "\n".join(readme.lines_of_store("", samples)) for row in durable.ROWS)


@pytest.mark.filterwarnings("ignore")  # other libraries warn of handlers with equal names
@pytest.mark.parametrize("contender", INSTALLED, ids=lambda one: one.name)
def test_every_contender_delivers_what_is_published(contender: Contender) -> None:
    """Events reach each handler once, one by one, from ten tasks, and as validated orders."""
    for sample in (fan_out(contender, 2), ten_to_ten(contender), nested_orders(contender)):
        assert run(sample, 20, backend=contender.backend) > 0


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize(
    "contender", [one for one in INSTALLED if one.patterns], ids=lambda one: one.name
)
def test_every_router_routes_by_pattern(contender: Contender) -> None:
    """Topics of both kinds reach the handler of all the patterns once."""
    tally = Tally()

    async def publish() -> None:
        assert contender.patterns is not None
        async with contender.patterns(patterns(7), tally) as publish_to:
            for kind in TOPICS:
                await publish_to(islice(topics(7, kind), 30))

    run(publish, backend=contender.backend)

    assert tally.handled == 30 * len(TOPICS)


@asynccontextmanager
async def losing(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    """Lose the first event of each publish."""

    async def publish(events: Iterable[Event]) -> None:
        tally.handled += len(list(events)) - 1

    yield publish


def test_a_lost_event_is_no_figure() -> None:
    """What was faster because it did less is refused."""
    loser = Contender(name="loser", wire=losing)

    with pytest.raises(WrongCount, match="deliveries where"):
        run(fan_out(loser, 1), 10, backend="asyncio")


# --- samples --------------------------------------------------------------------------------------


def test_each_round_takes_one_sample_of_each_case() -> None:
    """Rounds hold all cases, with their size divided."""

    async def size(given: int) -> float:
        return given

    rounds = list(measure({"a": Case(size, 40), "b": Case(size, 7)}, rounds=2, shrink=10))

    assert by_case(rounds) == {"a": [4, 4], "b": [1, 1]}


def test_what_is_too_slow_is_tried_once() -> None:
    """A case that was given up costs no further round its time."""
    tried: list[int] = []

    async def endless(size: int) -> float:
        tried.append(size)
        raise TooSlow

    rounds = list(measure({"endless": Case(endless)}, rounds=3))

    assert by_case(rounds) == {"endless": [inf, inf, inf]}
    assert len(tried) == 1


def test_patience_ends_with_the_time() -> None:
    """Items are given while time is left, and then no more."""
    assert list(within(60, "ab")) == ["a", "b"]
    with pytest.raises(TooSlow):
        list(within(-1, "ab"))


@pytest.mark.parametrize("kind", TOPICS)
def test_each_topic_matches_one_pattern(kind: Kind) -> None:
    """The work of routing is equal for all sizes: one handler, found by one pattern."""
    known = list(patterns(9))

    for topic in islice(topics(9, kind), 50):
        assert sum(matches(pattern, topic) for pattern in known) == 1


def test_topics_are_repeated_or_new() -> None:
    """Repeated topics come again soon, new ones never."""
    seen = {kind: list(islice(topics(9, kind), 200)) for kind in TOPICS}

    assert len(set(seen["repeated"])) < 30
    assert len(set(seen["new"])) == 200


# --- figures and verdicts -------------------------------------------------------------------------


def test_a_figure_compares_within_rounds() -> None:
    """A machine that is slow for a whole round changes nothing."""
    samples = {"case": [10.0, 200.0, 30.0], "floor": [5.0, 100.0, 10.0]}

    assert per("case", "floor")(samples) == 2
    assert per("case", "floor", parts=2)(samples) == 1
    assert per("case", 10)(samples) == 3


def test_a_case_that_was_not_measured_has_no_figure() -> None:
    """Whatever is missing in a comparison, there is none."""
    assert per("case", "floor")({"case": [1.0]}) is None
    assert per("case", "floor")({"floor": [1.0]}) is None
    assert per("case", 10)({}) is None


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(None, "-"), (1.9, "reached"), (2.0, "reached"), (2.5, "MISSED by 25 %")],
)
def test_a_row_may_be_at_most_its_bar(measured: float | None, verdict: str) -> None:
    """The verdict says by how much the bar is missed."""
    row = Row("what", "F", 2.0, 1.0, lambda samples: measured)

    assert row.verdict(measured) == verdict


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (None, "-"),
        (2.1, "reached"),
        (2.0, "reached"),
        (1.5, "MISSED by 25 %"),
        (inf, "no figure: the other was given up"),
    ],
)
def test_a_lead_must_be_at_least_its_bar(measured: float | None, verdict: str) -> None:
    """The verdict says by how much the bar is missed, and claims nothing it did not measure."""
    lead = Lead("what", 2.0, lambda samples: measured)

    assert lead.verdict(measured) == verdict


def test_the_best_of_the_others_counts() -> None:
    """A lead over the best is the least of the leads."""
    samples = {named(BUS.name, "order"): [2.0], named("blinker", "order"): [5.0]}
    samples[named("pyee", "order")] = [3.0]

    assert leads.over_best("order")(samples) == 1.5


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (7.4, "7 ns"),
        (999.4, "999 ns"),
        (999.6, "1.0 us"),
        (9_900, "9.9 us"),
        (12_345, "12 us"),
        (1_500_000, "1.5 ms"),
        (2_500_000_000, "2.5 s"),
    ],
)
def test_times_are_written_in_readable_units(nanoseconds: float, text: str) -> None:
    """Two or three digits and a unit."""
    assert league.readable(nanoseconds) == text


# --- the README's figures -------------------------------------------------------------------------


def test_figures_are_filled_in_between_their_marks() -> None:
    """A run replaces what an earlier one wrote, and nothing else."""
    begin, end = readme.BARS
    lines = readme.lines("a machine; libraries", {"one": [140.0], "F": [100.0]})

    filled = readme.filled(f"before {begin}\n\nolder\n{end} after", readme.BARS, lines)

    assert filled.startswith(f"before {begin}\n\nMeasured on a machine; libraries.\n")
    assert filled.endswith(f"|\n\n{end} after")
    assert "| one publisher, one handler | 1.40 F | 1.35 | 1.15 |  | MISSED by 4 % |" in filled
    assert "older" not in filled


def test_a_readme_without_marks_is_refused() -> None:
    """Rather than written over."""
    with pytest.raises(ValueError, match="put both"):
        readme.filled("no marks", readme.BARS, [])


# --- the tables -----------------------------------------------------------------------------------


def league_line(name: str, samples: dict[str, list[float]]) -> str:
    """Find a contender's line in the first table."""
    return next(line for line in league.lines(samples) if line.startswith(f"{name} "))


def test_a_library_that_is_missing_has_dashes() -> None:
    """Nothing is hidden: who was not measured stands there, without figures."""
    samples = {named(BUS.name, "to 1"): [400.0]}

    assert league_line("bubus", samples).split() == ["bubus", *"-----"]
    assert league_line("eventbus", samples).split()[1:4] == ["400", "ns", "1.00x"]
    assert "bubus" in "\n".join(leads.lines(samples))


def test_figures_agree_with_their_factors() -> None:
    """A contender measured in slow rounds is not shown slower than it is beside the bus."""
    samples = {
        named(BUS.name, "to 1"): [100.0, 100.0, 900.0, 900.0, 900.0],
        named("blinker", "to 1"): [200.0, 200.0, 1_800.0, 1_800.0],
    }

    assert league_line("blinker", samples).split()[1:4] == ["1.8", "us", "2.00x"]


def test_names_of_contenders_are_their_own() -> None:
    """A case is found by the name of its contender."""
    names = [one.name for one in CONTENDERS]

    assert len(set(names)) == len(names)
    assert {one.name for one in PEERS} < set(names)


# --- the picture ----------------------------------------------------------------------------------

PANEL = Panel(
    "Time & space",
    [
        Bar("slow", 1e5, "peer"),
        Bar("fast", 1e3, "bus"),
        Bar("between", 1e4, "floor"),
    ],
)


def bars_of(picture: str) -> Iterator[tuple[str, float]]:
    """Read the kind and length of the bars, but for those of the legend and the page."""
    for bar in ElementTree.fromstring(picture).iter(f"{SVG}rect"):  # noqa: S314 - drawn by us
        kind, length = bar.get("class", ""), float(bar.get("width", "0"))
        if kind != "page":
            yield kind, length


def test_a_picture_is_drawn_the_same_way_each_time() -> None:
    """Equal figures give an equal file, whatever their order."""
    turned = Panel(PANEL.title, PANEL.bars[::-1])

    assert chart.svg([PANEL], "notes") == chart.svg([turned], "notes")


def test_bars_grow_by_the_logarithm() -> None:
    """The fastest comes first, and ten times the time is one step more."""
    *_, fast, between, slow = bars_of(chart.svg([PANEL], "notes"))

    assert [fast[0], between[0], slow[0]] == ["bus", "floor", "peer"]
    assert slow[1] - between[1] == pytest.approx(between[1] - fast[1], abs=0.2)


def test_a_picture_follows_the_colours_of_the_reader() -> None:
    """It is readable on a light page and on a dark one."""
    assert "prefers-color-scheme: dark" in chart.svg([PANEL], "notes")


def test_panels_leave_out_who_has_no_figure() -> None:
    """A bar needs a figure, and a panel a bar."""
    samples = {named(BUS.name, "to 1"): [400.0], named("bubus", "to 1"): [inf]}

    (panel,) = chart.panels(samples)

    assert [bar.name for bar in panel.bars] == ["eventbus"]


def test_the_machine_stays_nameless() -> None:
    """A report tells what kind of machine it was, and not which."""
    assert platform.node() not in f"{machine.kind()} {machine.libraries(INSTALLED)}".split()


# --- old and new ----------------------------------------------------------------------------------


def test_old_and_new_are_compared_within_rounds() -> None:
    """What counts is how many times the old time the new one is in the same round."""
    rounds = [{"case": (100.0, 110.0)}, {"case": (900.0, 990.0)}, {"case": (100.0, 400.0)}]

    assert compared(rounds) == [Comparison("case", 100.0, 400.0, 1.1)]


@pytest.mark.parametrize(
    ("ratio", "word"), [(1.06, "SLOWER"), (1.04, "%"), (0.96, "%"), (0.94, "faster")]
)
def test_a_change_counts_from_five_percent(ratio: float, word: str) -> None:
    """Less than that is noise."""
    comparison = Comparison("case", 100.0, 100.0 * ratio, ratio)

    assert str(comparison).split()[-1] == word
    assert comparison.is_slower == (word == "SLOWER")


def test_a_case_of_one_version_alone_is_not_slower() -> None:
    """An option that the old version does not know is no loss."""
    (comparison,) = compared([{"case": (nan, 100.0)}])

    assert isnan(comparison.ratio)
    assert not comparison.is_slower
    assert "only one version" in str(comparison)


def worker(checkout: Path, asked: str) -> subprocess.CompletedProcess[str]:
    """Ask the process of one version, and end it."""
    return subprocess.run(  # noqa: S603 - this interpreter, our own module
        [sys.executable, "-m", "tests.benchmarks.worker", str(checkout)],
        cwd=ROOT,
        input=asked,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_worker_answers_each_question() -> None:
    """It takes a sample of a size for each line, and ends with its input."""
    done = worker(ROOT, "20 one handler\n20 where=\n")

    assert done.returncode == 0, done.stderr
    assert [float(line) > 0 for line in done.stdout.splitlines()] == [True, True]


def test_a_worker_refuses_another_eventbus(tmp_path: Path) -> None:
    """A folder without the bus is not taken for a version of it."""
    done = worker(tmp_path, "")

    assert done.returncode != 0
    assert f"not from {tmp_path}" in done.stderr
