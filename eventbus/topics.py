"""Topics, the patterns that match them, and the tree that finds all patterns for a topic.

A topic is text in tokens between dots: `orders.eu.created`. A pattern is a topic in which whole
tokens may be special:

    orders.*.created       `*` is exactly one token
    orders.>               `>` is one token or more, and stands last
    orders.{region}.paid   `{name}` is a `*` that captures the token under its name

Everything else is literal and case-sensitive: `c++`, `a*b` and a brace without its partner are
text. A token is never empty and holds no white space and no control character. Topics and patterns
are at most 255 bytes of UTF-8 and 32 tokens long.

A topic whose first token begins with `$` is reserved: it belongs to the bus. A pattern reaches it
only by naming that token, so `>` is every topic but those.

Matching is linear in the number of tokens. Nothing here waits, and nothing is compiled.
"""

__all__ = (
    "TopicTree",
    "advice_on",
    "captures",
    "check_pattern",
    "check_topic",
    "covers",
    "is_literal",
    "is_reserved",
    "is_valid_pattern",
    "is_valid_topic",
    "matches",
    "overlaps",
)

import reprlib
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Generic, TypeAlias, TypeVar

from eventbus.cache import BoundedCache
from eventbus.errors import InvalidPattern, InvalidTopic

V = TypeVar("V", bound=Hashable)

_MOST_BYTES = 255
_MOST_TOKENS = 32
_ONE = "*"
_REST = ">"
_FOREIGN_WILDCARDS = {"#": _REST, "+": _ONE, "**": _REST}
_NEVER_PLAIN = frozenset({"", _ONE, _REST, *_FOREIGN_WILDCARDS})

_SHORTENED = reprlib.Repr()
_SHORTENED.maxstring = _SHORTENED.maxother = _MOST_BYTES

# Most patterns have one value, and a tuple of one is a fifth of the smallest dict; where there are
# many, removing one must not search through all.
_Values: TypeAlias = tuple[V, ...] | dict[V, None]
_FEW = 8
# An answer longer than this takes longer to use than to find, and would cost a lot to keep.
_ANSWERS = 4096
_LONGEST_ANSWER = 256


# --- What is a topic, what is a pattern -----------------------------------------------------------


def is_valid_topic(text: object) -> bool:
    """Tell whether the text is a topic; reserved ones are."""
    return _flaw_of_topic(text) is None


def is_valid_pattern(text: object) -> bool:
    """Tell whether the text is a pattern; every topic is one."""
    return _flaw_of_pattern(text) is None


def check_topic(text: str) -> str:
    """Give the topic back; reserved ones pass.

    Raises:
        InvalidTopic: The text is not a topic.
    """
    flaw = _flaw_of_topic(text)
    if flaw is not None:
        raise InvalidTopic(f"{_SHORTENED.repr(text)} is not a topic: {flaw}.")
    return text


def check_pattern(text: str) -> str:
    """Give the pattern back.

    Raises:
        InvalidPattern: The text is not a pattern.
    """
    flaw = _flaw_of_pattern(text)
    if flaw is not None:
        raise InvalidPattern(f"{_SHORTENED.repr(text)} is not a pattern: {flaw}.")
    return text


def advice_on(pattern: str) -> str | None:
    """Say what was probably meant by a token that looks like a wildcard and is ordinary text."""
    for token in pattern.split("."):
        is_special = token in (_ONE, _REST) or _is_braced(token)
        if not is_special and (_ONE in token or _REST in token or ("{" in token and "}" in token)):
            return (
                f"{token!r} is an ordinary token: '*', '>' and '{{name}}' are special as whole "
                "tokens alone, as in 'orders.*'; choose by where= within one"
            )
    return None


def is_reserved(topic_or_pattern: str) -> bool:
    """Tell whether it belongs to the bus: its first token begins with `$`. Checks nothing else."""
    return topic_or_pattern.startswith("$")


def is_literal(pattern: str) -> bool:
    """Tell whether the pattern matches one topic alone, itself. Checks nothing else."""
    return not any(token in (_ONE, _REST) or _is_braced(token) for token in pattern.split("."))


# --- Comparing patterns ---------------------------------------------------------------------------


def matches(pattern: str, topic: str) -> bool:
    """Tell whether the pattern matches the topic.

        matches("orders.*", "orders.created")       # True
        matches("orders.*", "orders.eu.created")    # False

    Raises:
        InvalidPattern: The pattern is not one.
        InvalidTopic: The topic is not one.
    """
    return _covers(_folded(pattern), check_topic(topic).split("."))


def captures(pattern: str, topic: str) -> dict[str, str]:
    """Give the tokens that the `{name}`s of the pattern stand for; none where it does not match.

        captures("orders.{region}.{kind}", "orders.eu.paid")    # {"region": "eu", "kind": "paid"}

    Raises:
        InvalidPattern: The pattern is not one.
        InvalidTopic: The topic is not one.
    """
    if not matches(pattern, topic):
        return {}
    pairs = zip(pattern.split("."), topic.split("."), strict=False)
    return {special[1:-1]: token for special, token in pairs if _is_capture(special)}


def covers(a: str, b: str) -> bool:
    """Tell whether `a` matches every topic that `b` matches.

    Decided token by token; that a topic cannot be longer than 32 tokens or 255 bytes is left out.

    Raises:
        InvalidPattern: One of the two is not a pattern.
    """
    return _covers(_folded(a), _folded(b))


def overlaps(a: str, b: str) -> bool:
    """Tell whether some topic is matched by both.

    Decided token by token; that a topic cannot be longer than 32 tokens or 255 bytes is left out.

    Raises:
        InvalidPattern: One of the two is not a pattern.
    """
    ours, theirs = _folded(a), _folded(b)
    if _is_kept_from(ours, theirs) or _is_kept_from(theirs, ours):
        return False
    for one, other in zip(ours, theirs, strict=False):
        if _REST in (one, other):
            return True
        if one != other and _ONE not in (one, other):
            return False
    return len(ours) == len(theirs)


def _folded(pattern: str) -> list[str]:
    """Split a checked pattern, with each capture as the `*` it is."""
    tokens = check_pattern(pattern).split(".")
    return [_ONE if _is_capture(token) else token for token in tokens]


def _covers(a: Sequence[str], b: Sequence[str]) -> bool:
    """Compare tokens; a topic is a pattern that covers itself alone, so this is matching too."""
    if _is_kept_from(a, b):
        return False
    if a[-1] != _REST:
        return len(a) == len(b) and b[-1] != _REST and _accepts(a, b)
    return len(a) <= len(b) and _accepts(a[:-1], b)


def _accepts(a: Sequence[str], b: Sequence[str]) -> bool:
    return all(one in (_ONE, other) for one, other in zip(a, b, strict=False))


def _is_kept_from(a: Sequence[str], b: Sequence[str]) -> bool:
    """Tell whether `b` is reserved and `a` begins with a wildcard, which never reaches that."""
    return a[0] in (_ONE, _REST) and is_reserved(b[0])


# --- Finding all patterns for a topic -------------------------------------------------------------


class TopicTree(Generic[V]):
    """A set of (pattern, value) entries that finds the values of all patterns matching a topic.

    The time of `match` depends on the tokens of the topic and the number of values found, not on
    how many patterns there are: literals are in one dict, the others in a trie by token. The latest
    answers are kept until an entry comes or goes, so that asking again is one dict lookup.

    Captures count as `*`: `orders.{id}` and `orders.*` are one pattern here.

        tree = TopicTree[str]()
        tree.add("orders.*", "audit")
        tree.add("orders.created", "bill")
        tree.match("orders.created")        # ("bill", "audit")
    """

    __slots__ = ("_answers", "_entries", "_literals", "_open", "_recent", "_reserved")

    def __init__(self) -> None:
        self._literals: dict[str, _Values[V]] = {}
        self._open: _Node[V] = _Node()
        # A trie of their own keeps first wildcards away from the reserved topics.
        self._reserved: _Node[V] = _Node()
        self._entries = 0
        self._answers: BoundedCache[str, tuple[V, ...]] = BoundedCache(_ANSWERS)
        self._recent = self._answers.young

    def __len__(self) -> int:
        """Count the entries."""
        return self._entries

    def add(self, pattern: str, value: V) -> None:
        """Add an entry; one that is there already stays the only one of its kind.

        Raises:
            InvalidPattern: The pattern is not one.
        """
        tokens = _folded(pattern)
        values = self._get(tokens)
        if value not in values:
            self._set(tokens, _with(values, value))
            self._entries += 1
            self._answers.clear()

    def remove(self, pattern: str, value: V) -> None:
        """Remove an entry.

        Raises:
            InvalidPattern: The pattern is not one.
            KeyError: There is no such entry.
        """
        tokens = _folded(pattern)
        values = self._get(tokens)
        if value not in values:
            raise KeyError(f"{value!r} is not in the tree under {pattern!r}; add it first")
        self._set(tokens, _without(values, value))
        self._entries -= 1
        self._answers.clear()

    def match(self, topic: str) -> tuple[V, ...]:
        """Give the values of all patterns that match the topic, each value once.

        Their order is the same for the same history of the tree, and promises nothing else. The
        topic is not checked (`check_topic`): what comes back for other text is not defined.
        """
        found = self._recent.get(topic)
        return self._answer(topic) if found is None else found

    def _answer(self, topic: str) -> tuple[V, ...]:
        found = self._answers.get(topic)
        if found is None:
            found = _merged(self._search(topic))
            if len(found) <= _LONGEST_ANSWER:
                self._answers.put(topic, found)
        return found

    def _search(self, topic: str) -> list[_Values[V]]:
        """Walk down all branches at once, a level for each token."""
        found = [self._literals[topic]] if topic in self._literals else []
        level = [self._root(topic)]
        for token in topic.split("."):
            below: list[_Node[V]] = []
            for node in level:
                if node.rest is not None:
                    found.append(node.rest.values)
                if node.one is not None:
                    below.append(node.one)
                if node.literals is not None and token in node.literals:
                    below.append(node.literals[token])
            if not below:
                return found
            level = below
        found += [node.values for node in level if node.values]
        return found

    def _get(self, tokens: Sequence[str]) -> _Values[V]:
        if _is_wild(tokens):
            return self._root(tokens[0]).get(tokens)
        return self._literals.get(".".join(tokens), ())

    def _set(self, tokens: Sequence[str], values: _Values[V]) -> None:
        if _is_wild(tokens):
            self._root(tokens[0]).set(tokens, values)
        elif values:
            self._literals[".".join(tokens)] = values
        else:
            del self._literals[".".join(tokens)]

    def _root(self, text: str) -> "_Node[V]":
        return self._reserved if is_reserved(text) else self._open


class _Node(Generic[V]):
    """The patterns that share their first tokens; `values` are those of the one that ends here.

    The wildcards have slots of their own, which makes a search quicker and a node smaller than
    looking for them among the literals.
    """

    __slots__ = ("literals", "one", "rest", "values")

    def __init__(self) -> None:
        self.values: _Values[V] = ()
        self.one: _Node[V] | None = None
        self.rest: _Node[V] | None = None
        self.literals: dict[str, _Node[V]] | None = None

    def get(self, tokens: Sequence[str]) -> _Values[V]:
        """Give the values of the pattern with these further tokens."""
        node = self
        for token in tokens:
            child = node.child(token)
            if child is None:
                return ()
            node = child
        return node.values

    def set(self, tokens: Sequence[str], values: _Values[V]) -> None:
        """Replace the values of that pattern, growing and cutting the branch that leads to it."""
        if not tokens:
            self.values = values
            return
        child = self.child(tokens[0]) or _Node[V]()
        child.set(tokens[1:], values)
        self.link(tokens[0], None if child.is_empty() else child)

    def child(self, token: str) -> "_Node[V] | None":
        if token == _ONE:
            return self.one
        if token == _REST:
            return self.rest
        return None if self.literals is None else self.literals.get(token)

    def link(self, token: str, child: "_Node[V] | None") -> None:
        if token == _ONE:
            self.one = child
        elif token == _REST:
            self.rest = child
        else:
            literals = self.literals or {}
            if child is None:
                del literals[token]
            else:
                literals[token] = child
            self.literals = literals or None

    def is_empty(self) -> bool:
        return not (self.values or self.one or self.rest or self.literals)


def _with(values: _Values[V], value: V) -> _Values[V]:
    if isinstance(values, dict):
        values[value] = None
        return values
    return (*values, value) if len(values) < _FEW else dict.fromkeys((*values, value))


def _without(values: _Values[V], value: V) -> _Values[V]:
    if isinstance(values, dict):
        del values[value]
        return values
    return tuple(kept for kept in values if kept != value)


def _merged(found: Sequence[_Values[V]]) -> tuple[V, ...]:
    if len(found) == 1:
        return tuple(found[0])
    return tuple(dict.fromkeys(chain.from_iterable(found)))


# --- What is wrong with a text --------------------------------------------------------------------


def _flaw_of_topic(text: object) -> str | None:
    return _flaw(text, _flaw_of_topic_tokens)


def _flaw_of_pattern(text: object) -> str | None:
    return _flaw(text, _flaw_of_pattern_tokens)


def _flaw(text: object, flaw_of_tokens: Callable[[list[str]], str | None]) -> str | None:
    """Say what is wrong and what to do about it; nothing where all is well."""
    if not isinstance(text, str):
        return f"its type is {type(text).__name__}, not str; pass one such as 'orders.created'"
    if _is_plain(text):
        return None
    return _flaw_of_text(text) or flaw_of_tokens(text.split("."))


def _is_plain(text: str) -> bool:
    """Recognize at the speed of C what nearly every text is: short, visible, nothing special.

    63 characters are at most 252 bytes and 32 tokens.
    """
    return (
        len(text) <= 63
        and _is_visible(text)
        and "{" not in text
        and _NEVER_PLAIN.isdisjoint(text.split("."))
    )


def _is_visible(text: str) -> bool:
    """Tell that every character can be used; where it cannot tell, the answer is no."""
    return text.isprintable() and " " not in text


def _flaw_of_text(text: str) -> str | None:
    if not text:
        return "it is empty; name something, such as 'orders.created'"
    if len(text) > _MOST_BYTES or len(text.encode(errors="surrogatepass")) > _MOST_BYTES:
        return f"it is longer than {_MOST_BYTES} bytes of UTF-8; shorten it"
    if text.count(".") >= _MOST_TOKENS:
        return f"it has more than {_MOST_TOKENS} tokens; use fewer dots"
    if "" in text.split("."):
        return "it has an empty token; remove the dot at its start or end, or the doubled one"
    if not _is_visible(text) and (unusable := next(filter(_is_unusable, text), None)):
        return f"it holds {unusable!r}; use no white space, control character or lone surrogate"
    return None


def _is_unusable(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cs")


def _flaw_of_topic_tokens(tokens: list[str]) -> str | None:
    for token in tokens:
        if token in _NEVER_PLAIN or _is_braced(token):
            return f"the token {token!r} has a meaning in patterns alone; name the token it is for"
    return None


def _flaw_of_pattern_tokens(tokens: list[str]) -> str | None:
    for token in tokens:
        if token in _FOREIGN_WILDCARDS:
            return f"{token!r} is no wildcard here; write {_FOREIGN_WILDCARDS[token]!r}"
    if "{}" in tokens:
        return "'{}' captures under no name; write '{name}', or '*'"
    if _REST in tokens[:-1]:
        return "'>' stands for all the tokens that follow; make it the last, or write '*' for one"
    names = [token for token in tokens if _is_capture(token)]
    if len(names) != len(set(names)):
        return "it captures twice under one name; give each capture a name of its own"
    return None


def _is_wild(tokens: Sequence[str]) -> bool:
    return _ONE in tokens or _REST in tokens


def _is_capture(token: str) -> bool:
    return _is_braced(token) and len(token) > 2


def _is_braced(token: str) -> bool:
    """Tell whether the token is one pair of braces; any other brace is text."""
    return token[0] == "{" and token[-1] == "}" and token.count("{") == token.count("}") == 1
