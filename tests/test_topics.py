import gc
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import product
from typing import SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import EventBusError, InvalidPattern, InvalidTopic
from eventbus.topics import (
    TopicTree,
    captures,
    check_pattern,
    check_topic,
    covers,
    is_literal,
    is_reserved,
    is_valid_pattern,
    is_valid_topic,
    matches,
    overlaps,
)

# --- A naive matcher, and all topics of a small world ---------------------------------------------

TOKENS = ("a", "b", "$a")
# `z` is in no pattern: what only a wildcard can match. One token more than any pattern has shows
# what `>` adds.
WORLD = [".".join(tokens) for n in range(1, 5) for tokens in product((*TOKENS, "z"), repeat=n)]

topics = st.sampled_from(WORLD)
bodies = st.lists(st.sampled_from((*TOKENS, "*", "{x}")), max_size=2)
ends = st.sampled_from((*TOKENS, "*", "{y}", ">"))
patterns = st.tuples(bodies, ends).map(lambda parts: ".".join([*parts[0], parts[1]]))
patterns = patterns.filter(is_valid_pattern)


def naively(pattern: str, topic: str) -> bool:
    """Match token by token, as the grammar says it."""
    first = pattern.split(".")[0]
    if topic.startswith("$") and (first in ("*", ">") or first.startswith("{")):
        return False
    return _naively(pattern.split("."), topic.split("."))


def _naively(pattern: Sequence[str], topic: Sequence[str]) -> bool:
    if not pattern or not topic:
        return not pattern and not topic
    if pattern[0] == ">":
        return True
    is_wildcard = pattern[0] == "*" or pattern[0].startswith("{")
    return (is_wildcard or pattern[0] == topic[0]) and _naively(pattern[1:], topic[1:])


def world_of(pattern: str) -> set[str]:
    """Collect the topics of the small world that the pattern matches."""
    return {topic for topic in WORLD if naively(pattern, topic)}


# --- What is a topic, what is a pattern -----------------------------------------------------------

LONGEST = "é" * 127 + "x"
DEEPEST = ".".join("x" * 32)

LITERALS = [
    "a",
    "orders.created",
    "Orders.Created",
    "c++",
    "a*b.x>y.>>.***.##.++.a#",
    "{.}.{a.a}.{a}{b}.{{a}}.x{a}",
    "zażółć.東京.👩‍👩‍👧",
    "$dlq.billing",
    "a.$",
    LONGEST,
    DEEPEST,
]
WILDCARDS = [
    "*",
    ">",
    "*.*",
    "a.>",
    "*.>",
    "{id}.b",
    "a.{x}.{y}",
    "$dlq.*",
    "{order-id}",
    "a.{é}.>",
]
FLAWED_ANYWHERE: list[tuple[object, str]] = [
    ("", "empty"),
    (".", "empty token"),
    ("a..b", "empty token"),
    (".a", "empty token"),
    ("a.", "empty token"),
    ("a b", "' '"),
    ("a\tb", r"\\t"),
    ("a\n", r"\\n"),
    ("a\u00a0b", r"\\xa0"),
    ("a\u2028b", r"\\u2028"),
    ("a\u0000", r"\\x00"),
    ("a\u0085", r"\\x85"),
    ("a\ud800", r"\\ud800"),
    (LONGEST + "x", "255 bytes"),
    ("x" * 10_000, "255 bytes"),
    (DEEPEST + ".x", "32 tokens"),
    ("a.{}", "{}"),
    (7, "int, not str"),
    (None, "NoneType, not str"),
    (b"orders", "bytes, not str"),
]
FLAWED_TOPICS: list[tuple[object, str]] = [
    (token, "patterns alone") for token in ("*", ">", "#", "+", "**", "{id}", "a.*.b")
]
FLAWED_PATTERNS: list[tuple[object, str]] = [
    ("a.#", "write '>'"),
    ("+.a", r"write '\*'"),
    ("a.**", "write '>'"),
    ("a.>.b", "make it the last"),
    (">.>", "make it the last"),
    ("{x}.a.{x}", "name of its own"),
    ("{}", r"'\{name\}', or '\*'"),
]


@pytest.mark.parametrize("text", LITERALS)
def test_literal_text_is_a_topic_and_a_pattern(text: str) -> None:
    """What has no special token is valid as both, and comes back as it is."""
    assert check_topic(text) is text
    assert check_pattern(text) is text
    assert is_valid_topic(text)
    assert is_valid_pattern(text)
    assert is_literal(text)
    assert matches(text, text)


@pytest.mark.parametrize("pattern", WILDCARDS)
def test_wildcards_are_for_patterns_alone(pattern: str) -> None:
    """A text with a special token is a pattern, and no topic."""
    assert check_pattern(pattern) is pattern
    assert is_valid_pattern(pattern)
    assert not is_valid_topic(pattern)
    assert not is_literal(pattern)


@pytest.mark.parametrize(("text", "reason"), FLAWED_ANYWHERE + FLAWED_TOPICS)
def test_a_refused_topic_says_why(text: str, reason: str) -> None:
    """The error holds the value, what is wrong with it and what to do."""
    assert not is_valid_topic(text)
    with pytest.raises(InvalidTopic, match=f"is not a topic: .*{reason}.*; "):
        check_topic(text)


@pytest.mark.parametrize(("text", "reason"), FLAWED_ANYWHERE + FLAWED_PATTERNS)
def test_a_refused_pattern_says_why(text: str, reason: str) -> None:
    """The error holds the value, what is wrong with it and what to do."""
    assert not is_valid_pattern(text)
    with pytest.raises(InvalidPattern, match=f"is not a pattern: .*{reason}"):
        check_pattern(text)


@pytest.mark.parametrize("text", ["a..b", "caf\u00e9 noir", "\ud800"])
def test_an_error_shows_the_value(text: str) -> None:
    """The offending value stands at the start of the message, printable whatever it holds."""
    with pytest.raises(EventBusError) as raised:
        check_topic(text)
    assert str(raised.value).startswith(repr(text))
    assert str(raised.value).isprintable()


def test_an_error_about_a_huge_value_stays_short() -> None:
    """A megabyte of text does not go into the log with the error."""
    with pytest.raises(InvalidPattern) as raised:
        check_pattern("x" * 1_000_000)
    assert len(str(raised.value)) < 500


@given(st.text() | st.text("a.*>{}#+$\ud800 é", max_size=12))
def test_every_text_is_judged(text: str) -> None:
    """Any text is accepted or refused with the one error, and every topic is a pattern."""
    try:
        check_pattern(text)
    except InvalidPattern:
        assert not is_valid_pattern(text)
        assert not is_valid_topic(text)
    else:
        assert is_valid_pattern(text)
        assert is_valid_topic(text) == is_literal(text)
        assert all(token and not token.isspace() for token in text.split("."))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$dlq.a", True), ("$", True), ("$dlq.>", True), ("a.$b", False), (">", False)],
)
def test_reserved_is_what_begins_with_a_dollar(text: str, expected: bool) -> None:
    """The first token alone says whether a topic or pattern belongs to the bus."""
    assert is_reserved(text) is expected


# --- Comparing patterns ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("orders.*", "orders.created", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.eu.created", False),
        ("orders.>", "orders.eu.created", True),
        ("orders.>", "orders", False),
        ("*.created", "orders.created", True),
        ("orders.{region}", "orders.eu", True),
        ("orders.created", "orders.Created", False),
        ("a*b", "axb", False),
        (">", "$dlq.billing", False),
        ("*.billing", "$dlq.billing", False),
        ("{queue}.billing", "$dlq.billing", False),
        ("$dlq.*", "$dlq.billing", True),
        ("a.>", "a.$b", True),
    ],
)
def test_the_grammar_by_example(pattern: str, topic: str, expected: bool) -> None:
    """Each rule of the grammar, once."""
    assert matches(pattern, topic) is expected


@given(patterns, topics)
def test_matches_agrees_with_the_naive_matcher(pattern: str, topic: str) -> None:
    """Matching by comparing tokens gives what the definition gives."""
    assert matches(pattern, topic) == naively(pattern, topic)


@given(patterns, patterns)
def test_overlaps_means_a_common_topic(a: str, b: str) -> None:
    """Two patterns overlap when a topic of the world is matched by both."""
    assert overlaps(a, b) == (not world_of(a).isdisjoint(world_of(b)))


@given(patterns, patterns)
def test_covers_means_every_topic(a: str, b: str) -> None:
    """One pattern covers another when it matches all that the other matches."""
    assert covers(a, b) == (world_of(b) <= world_of(a))


def test_captures_name_the_tokens() -> None:
    """Each `{name}` gives the token in its place, whatever else the pattern holds."""
    assert captures("orders.{region}.*.{kind}.>", "orders.eu.x.paid.y.z") == {
        "region": "eu",
        "kind": "paid",
    }


@given(patterns, topics)
def test_captures_put_back_give_a_pattern_that_matches(pattern: str, topic: str) -> None:
    """With its captures filled in, the pattern still matches; where it does not, there are none."""
    found = captures(pattern, topic)
    filled = [found.get(token[1:-1], token) for token in pattern.split(".")]
    if matches(pattern, topic):
        assert matches(".".join(filled), topic)
        assert all("{" not in token for token in filled)
    else:
        assert found == {}


def test_invalid_arguments_are_refused() -> None:
    """Every comparison names the argument that is no topic or no pattern."""
    for compare in (matches, captures):
        with pytest.raises(InvalidPattern, match=r"'a\.\.b'"):
            compare("a..b", "a")
        with pytest.raises(InvalidTopic, match=r"'a\.\*'"):
            compare("a", "a.*")
    for compare_patterns in (overlaps, covers):
        with pytest.raises(InvalidPattern, match="'#'"):
            compare_patterns("a", "#")
        with pytest.raises(InvalidPattern, match="'#'"):
            compare_patterns("#", "a")


# --- The tree -------------------------------------------------------------------------------------


def tree_of(*entries: tuple[str, int]) -> TopicTree[int]:
    """Make a tree of these entries."""
    tree = TopicTree[int]()
    for pattern, value in entries:
        tree.add(pattern, value)
    return tree


@given(
    st.lists(st.tuples(patterns, st.integers(0, 3)) | st.integers(0, 9), max_size=30),
    st.lists(topics, min_size=1, max_size=5),
)
def test_the_tree_agrees_with_the_naive_matcher(
    steps: list[tuple[str, int] | int], asked: list[str]
) -> None:
    """After each entry that comes or goes, the tree finds what matching one by one finds."""
    tree = TopicTree[int]()
    entries: list[tuple[str, int]] = []
    for step in steps:
        if isinstance(step, tuple):
            pattern, value = as_stored(step[0]), step[1]
            tree.add(step[0], value)
            entries += [] if (pattern, value) in entries else [(pattern, value)]
        elif entries:
            tree.remove(*entries.pop(step % len(entries)))
        assert len(tree) == len(entries)
        for topic in asked:
            expected = {value for pattern, value in entries if naively(pattern, topic)}
            assert sorted(tree.match(topic)) == sorted(expected)


def as_stored(pattern: str) -> str:
    """Write captures as the `*` they count as."""
    return ".".join("*" if token.startswith("{") else token for token in pattern.split("."))


def test_a_value_reached_twice_is_found_once() -> None:
    """A value under several matching patterns is one answer."""
    assert tree_of(("a.b", 1), ("a.*", 1), ("a.>", 1), (">", 2)).match("a.b") == (1, 2)


def test_an_entry_added_twice_is_one() -> None:
    """Adding what is there changes nothing; a capture is the same pattern as a `*`."""
    tree = tree_of(("a.*", 1), ("a.*", 1), ("a.{x}", 1))
    assert len(tree) == 1
    tree.remove("a.*", 1)
    assert tree.match("a.b") == ()


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "a.>", "x.*", "x"])
def test_removing_what_is_not_there_is_an_error(pattern: str) -> None:
    """The error names value and pattern, and the tree stays as it was."""
    tree = tree_of(("a.b", 1), ("a.*", 1), ("a.>", 1))
    with pytest.raises(KeyError, match="2 is not in the tree"):
        tree.remove(pattern, 2)
    assert len(tree) == 3
    assert tree.match("a.b") == (1,)


def test_the_tree_refuses_what_is_no_pattern() -> None:
    """Neither `add` nor `remove` takes a flawed pattern, and nothing is kept of it."""
    tree = TopicTree[int]()
    for change in (tree.add, tree.remove):
        with pytest.raises(InvalidPattern):
            change("a.#", 1)
    assert len(tree) == 0


def test_answers_are_kept_until_the_tree_changes() -> None:
    """The same topic gives the very same answer, until an entry comes or goes."""
    tree = tree_of(("a.*", 1), (">", 2))
    first = tree.match("a.b")
    assert tree.match("a.b") is first
    tree.add("*.b", 3)
    assert sorted(tree.match("a.b")) == [1, 2, 3]
    tree.remove("a.*", 1)
    assert sorted(tree.match("a.b")) == [2, 3]


def test_kept_answers_are_bounded() -> None:
    """After many other topics an answer is made anew: it was forgotten, not kept for ever."""
    tree = tree_of(("a.*", 1), (">", 2))
    first = tree.match("a.b")
    match_others(tree, 5_000)
    assert tree.match("a.b") is first
    match_others(tree, 10_000)
    assert tree.match("a.b") is not first
    assert tree.match("a.b") == first


def match_others(tree: TopicTree[int], count: int) -> None:
    """Ask for as many other topics."""
    for number in range(count):
        tree.match(f"a.{number}")


def test_huge_answers_are_not_kept() -> None:
    """An answer of a thousand values is made anew each time: topics would multiply its size."""
    tree = tree_of((">", -1), *(("a.*", value) for value in range(1000)))
    assert tree.match("a.b") == tree.match("a.b")
    assert tree.match("a.b") is not tree.match("a.b")


def test_a_branch_goes_with_its_last_entry() -> None:
    """Adding and removing thousands of patterns leaves no memory behind."""
    tree = tree_of(("a.*", 0))
    gc.collect()
    tracemalloc.start()
    for number in range(2_000):
        tree.add(f"a.t{number}.*", number)
        tree.add(f"b.t{number}.>", number)
    grown = tracemalloc.get_traced_memory()[0]
    for number in range(2_000):
        tree.remove(f"a.t{number}.*", number)
        tree.remove(f"b.t{number}.>", number)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert left < grown / 20
    assert tree.match("a.b") == (0,)


# --- A hundred thousand patterns ------------------------------------------------------------------


class CountingToken(str):
    """A token that counts how often it is looked up."""

    __slots__ = ()
    lookups = 0

    def __hash__(self) -> int:
        CountingToken.lookups += 1
        return super().__hash__()

    __eq__ = str.__eq__


class CountingTopic(str):
    """A topic whose tokens count their lookups."""

    __slots__ = ()

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return [CountingToken(token) for token in super().split(sep, maxsplit)]


def lookups_of_a_match(tree: TopicTree[int], topic: str) -> int:
    """Count the dict lookups of tokens that a match takes."""
    CountingToken.lookups = 0
    tree.match(CountingTopic(topic))
    return CountingToken.lookups


def many_patterns(count: int) -> Iterator[tuple[str, int]]:
    """Give patterns of four shapes, each matching one number in one place."""
    for number in range(count // 4):
        yield f"first{number}.*.c", number
        yield f"*.second{number}.c", number
        yield f"a.*.third{number}", number
        yield f"a.rest{number}.>", number


def test_a_hundred_thousand_patterns_are_found() -> None:
    """Among 100,000 wildcard patterns the tree finds those that match, and no other."""
    tree = tree_of(*many_patterns(100_000))
    assert len(tree) == 100_000
    assert tree.match("first7.b.c") == (7,)
    assert tree.match("a.second24999.c") == (24_999,)
    assert sorted(tree.match("first3.second4.c")) == [3, 4]
    assert sorted(tree.match("a.rest5.third6")) == [5, 6]
    assert tree.match("a.rest25000.c") == ()


def test_a_match_looks_up_no_more_among_many() -> None:
    """The lookups of a match are the same with 40 patterns and with 40,000."""
    few, many = tree_of(*many_patterns(40)), tree_of(*many_patterns(40_000))
    for topic in ("first7.second7.c", "a.rest7.third7", "a.b.c", "q.q.q"):
        looked_up = lookups_of_a_match(few, topic)
        assert looked_up == lookups_of_a_match(many, topic)
        assert 0 < looked_up < 20


class CountingValue:
    """A value that counts how often it is compared."""

    comparisons = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        CountingValue.comparisons += 1
        return isinstance(other, CountingValue) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "a.>"])
def test_a_hundred_thousand_equal_patterns_come_and_go(pattern: str) -> None:
    """Adding and removing one of 100,000 values under one pattern does not search through them."""
    tree = TopicTree[CountingValue]()
    for number in range(100_000):
        tree.add(pattern, CountingValue(number))
    CountingValue.comparisons = 0
    for number in range(90_000, 91_000):
        tree.remove(pattern, CountingValue(number))
        tree.add(pattern, CountingValue(number))
    assert CountingValue.comparisons < 10 * 1_000
    assert len(tree.match("a.b")) == len(tree) == 100_000


def test_all_values_are_found_in_the_order_they_came() -> None:
    """Each of the many values under one pattern is found once, first come first."""
    tree = tree_of(*(("a.*", value) for value in range(100)))
    assert tree.match("a.b") == tuple(range(100))


def test_matching_cannot_blow_up() -> None:
    """Many wildcards against many equal tokens cost one comparison for each token."""
    tokens = ["a"] * 32
    assert matches(".".join(["*"] * 31 + [">"]), ".".join(tokens))
    assert not matches(".".join(["*"] * 31 + ["b"]), ".".join(tokens))
    tree = tree_of((".".join(["*"] * 31 + [">"]), 1), (".".join(["*"] * 31 + ["b"]), 2))
    assert tree.match(".".join(tokens)) == (1,)
    assert lookups_of_a_match(tree, ".".join(tokens)) <= 32
