"""Programs of handlers that publish to each other through small queues, made up at random."""

__all__ = ("Node", "Shape", "generate")

import random
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from eventbus.queue import Overflow

MOST_EVENTS = 50


@dataclass(frozen=True)
class Node:
    """A subscription: the topics it listens to, and those to which its handler publishes."""

    name: str
    topics: Sequence[str]
    targets: Sequence[str]
    concurrency: int
    queue_size: int
    overflow: Overflow
    is_keyed: bool
    uses_context: bool
    is_retrying: bool


@dataclass(frozen=True)
class Shape:
    """A program: its handlers, and how often an event is passed on.

    The event is the number of hops that it has left.
    """

    seed: int
    kind: str
    nodes: Sequence[Node]
    hops: int
    starts: int

    @property
    def is_circular(self) -> bool:
        """Whether a handler can reach itself."""
        edges = {node.name: self._reached_from(node) for node in self.nodes}
        try:
            TopologicalSorter(edges).prepare()
        except CycleError:
            return True
        return False

    def listeners(self, topic: str) -> list[str]:
        """Name the subscriptions that listen to a topic."""
        return [node.name for node in self.nodes if topic in node.topics]

    def _reached_from(self, node: Node) -> list[str]:
        return [name for target in node.targets for name in self.listeners(target)]


def generate(seed: int) -> Shape:
    """Make up a shape."""
    draw = random.Random(seed)
    kind = draw.choice(["chain", "ring", "diamond", "closed diamond", "web"])
    edges = [sorted(targets * draw.choice([1, 2, 2, 3])) for targets in _EDGES[kind](draw)]
    return Shape(
        seed=seed,
        kind=kind,
        nodes=[_node(draw, number, targets) for number, targets in enumerate(edges)],
        hops=_hops(max(map(len, edges)), draw),
        starts=draw.randint(1, 12),
    )


def _node(draw: random.Random, number: int, targets: Sequence[int]) -> Node:
    name, other = _name(number), _name(draw.randrange(number + 1))
    return Node(
        name=name,
        topics=[name, other] if draw.random() < 0.2 and other != name else [name],
        targets=[_name(target) for target in targets],
        concurrency=draw.choice([1, 1, 1, 1, 2, 3]),
        queue_size=draw.choice([1, 1, 1, 1, 2]),
        overflow=draw.choice(["block", "block", "block", "block", "latest"]),
        is_keyed=draw.random() < 0.3,
        uses_context=draw.random() < 0.4,
        is_retrying=draw.random() < 0.3,
    )


def _name(number: int) -> str:
    return "abcdefgh"[number]


def _hops(branching: int, draw: random.Random) -> int:
    """Let an event go round as long as its offspring stays countable."""
    most = 12
    while branching**most > MOST_EVENTS and most > 1:
        most -= 1
    return draw.randint(1, most)


Edges = list[list[int]]


def _chain(draw: random.Random) -> Edges:
    length = draw.randint(1, 6)
    return [[number + 1] for number in range(length - 1)] + [[]]


def _ring(draw: random.Random) -> Edges:
    length = draw.randint(1, 6)
    return [[(number + 1) % length] for number in range(length)]


def _diamond(_: random.Random) -> Edges:
    return [[1, 2], [3], [3], []]


def _closed_diamond(_: random.Random) -> Edges:
    return [[1, 2], [3], [3], [0]]


def _web(draw: random.Random) -> Edges:
    length = draw.randint(2, 6)
    return [draw.sample(range(length), draw.randint(0, 2)) for _ in range(length)]


_EDGES = {
    "chain": _chain,
    "ring": _ring,
    "diamond": _diamond,
    "closed diamond": _closed_diamond,
    "web": _web,
}
