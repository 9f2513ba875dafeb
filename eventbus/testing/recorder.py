"""What a test wants to know of a bus, and do to it: the probe behind `TestBus`."""

__all__ = ("Failure", "Recorder")

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, overload

from eventbus.bus import EventBus
from eventbus.context import Context, FailedDelivery
from eventbus.contracts import Topic
from eventbus.errors import InvalidOption
from eventbus.message import Message
from eventbus.middleware import CallNext
from eventbus.topics import check_pattern, matches
from eventbus.wording import counted

M = TypeVar("M")

Handler: TypeAlias = str | Callable[..., object]
"""A handler, or the name of a subscription."""

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that a subscription has given up on, with the error itself."""

    delivery: FailedDelivery
    error: BaseException

    def __str__(self) -> str:
        """Say in one line who gave up what, and why."""
        gone = self.delivery
        return (
            f"{gone.subscription} gave up on {gone.message.topic!r} after "
            f"{counted(gone.attempts, 'attempt')}: {gone.error_type}: {gone.error}"
        )


class Recorder:
    """Remembers what a bus publishes, calls and gives up on, and makes handlers fail.

    It keeps everything, so make a new one for each test.
    """

    def __init__(self, bus: EventBus[Any]) -> None:
        self._recorded_bus = bus
        self._messages: list[Message] = []
        self._failures: list[Failure] = []
        self._attempts: Counter[tuple[str, Callable[..., object]]] = Counter()
        self._injections: dict[Handler, _Injection] = {}
        self._expected: list[BaseException] = []

    # --- what was published -----------------------------------------------------------------

    @property
    def published(self) -> list[Message]:
        """Every message that went into the queues, in that order, as it was published."""
        return self._messages.copy()

    @overload
    def assert_published(
        self,
        topic: Topic[M],
        /,
        *,
        times: int | None = None,
        where: Callable[[M], object] | None = None,
    ) -> list[Message]: ...
    @overload
    def assert_published(
        self,
        pattern: str,
        /,
        *,
        times: int | None = None,
        where: Callable[[Any], object] | None = None,
    ) -> list[Message]: ...
    def assert_published(
        self,
        topic: str | Topic[Any],
        /,
        *,
        times: int | None = None,
        where: Callable[[Any], object] | None = None,
    ) -> list[Message]:
        """Hold what was published against a topic or pattern; give the messages that fit.

        There must be exactly `times` of them; at least one, if that is None. `where` is asked of
        the `Topic`'s model, or of the payload as it was published.

        Example:
            >>> bus.assert_published(ORDER_PAID, times=1, where=lambda order: order.cents == 990)

        Raises:
            AssertionError: Fewer or more fit; it says what was published instead.
            InvalidPattern: The string cannot be one.
        """
        __tracebackhide__ = True  # pytest then shows the test's own line
        pattern = topic.name if isinstance(topic, Topic) else check_pattern(topic)
        near = [one for one in self._messages if matches(pattern, one.topic)]
        found = [one for one in near if where is None or where(_event_of(one, topic))]
        if len(found) == times or (times is None and found):
            return found
        wanted = "at least 1 message" if times is None else counted(times, "message")
        raise AssertionError(
            f"{wanted} should have been published to {pattern!r}, and {len(found)} fitted; "
            f"{_instead(self._messages, near, found)}"
        )

    # --- what was handled -------------------------------------------------------------------

    def attempts(self, handler_or_name: Handler, /) -> int:
        """Tell how often a handler was called, attempts that `fail` let fail included.

        Raises:
            InvalidOption: Nothing of that name, or no such handler, is subscribed.
        """
        called = [times for key, times in self._attempts.items() if handler_or_name in key]
        if not called:
            self._recorded_bus.names_of(handler_or_name)
        return sum(called)

    def fail(
        self,
        handler_or_name: Handler,
        /,
        *,
        times: int | None = None,
        error: BaseException | type[BaseException] | None = None,
    ) -> None:
        """Let a handler fail, inside its middleware, in place of being called.

        From its next attempt on, `times` times: every time, if that is None; 0 ends it. The error
        is a `RuntimeError`, if none is given. What the subscription gives up on for this reason
        counts as expected.

        Example:
            >>> bus.fail(bill, times=2, error=ConnectionError("the bank is closed"))

        Raises:
            InvalidOption: Nothing of that name, or no such handler, is subscribed; or `times` is
                less than 0.
        """
        self._recorded_bus.names_of(handler_or_name)
        if times is not None and times < 0:
            raise InvalidOption(f"times={times!r}: give 0 or more, or None for every attempt")
        self._injections[handler_or_name] = _Injection(error or _let_fail, times)

    # --- what was given up ------------------------------------------------------------------

    @property
    def failures(self) -> list[Failure]:
        """Every delivery that was given up on, dead letter or not, in that order."""
        return self._failures.copy()

    def assert_failed(
        self,
        handler_or_name: Handler,
        /,
        error: type[BaseException] = Exception,
        *,
        times: int = 1,
    ) -> list[Failure]:
        """Hold what was given up on against a handler and an error; it counts as expected then.

        Example:
            >>> [failure] = bus.assert_failed(bill, ConnectionError)
            >>> failure.delivery.attempts
            3

        Raises:
            AssertionError: It is not exactly `times` deliveries; it says what was given up instead.
            InvalidOption: Nothing of that name, or no such handler, is subscribed.
        """
        __tracebackhide__ = True
        names = self._names_of(handler_or_name)
        found = [
            one
            for one in self._failures
            if one.delivery.subscription in names and isinstance(one.error, error)
        ]
        if len(found) != times:
            raise AssertionError(
                f"{' or '.join(names)} should have given up on {counted(times, 'delivery')} with "
                f"{error.__name__}, and {len(found)} fitted; in all there were: "
                f"{_some(self._failures) or 'none'}"
            )
        self._expected += [one.error for one in found]
        return found

    def raise_unexpected(self) -> None:
        """Raise the errors of what was given up on, and neither injected nor asserted.

        Raises:
            AssertionError: Its cause is the handler's own error; a group, if there are more.
        """
        __tracebackhide__ = True
        expected = set(map(id, self._expected))
        failures = [one for one in self._failures if id(one.error) not in expected]
        if not failures:
            return
        errors = [one.error for one in failures]
        cause = errors[0] if len(errors) == 1 else BaseExceptionGroup("what was given up", errors)
        raise AssertionError(
            f"{_some(failures)}. Nobody expected that: use assert_failed(...) where it is right, "
            "or set raise_failures=False"
        ) from cause

    def _names_of(self, handler_or_name: Handler) -> list[str]:
        """Name what a handler served, also if it is gone by now."""
        called = {key[0] for key in self._attempts if handler_or_name in key}
        return sorted(called) or self._recorded_bus.names_of(handler_or_name)

    # --- as a probe -------------------------------------------------------------------------

    def on_published(self, message: Message) -> None:
        """Remember a message."""
        self._messages.append(message)

    async def on_call(
        self, handler: Callable[..., object], context: Context[Any], call_next: CallNext
    ) -> object:
        """Count an attempt, and let it fail if it is to."""
        self._attempts[context.subscription, handler] += 1
        for target in (handler, context.subscription):
            injection = self._injections.get(target)
            if injection is not None and injection.left != 0:
                error = injection.next_error()
                self._expected.append(error)
                raise error
        return await call_next(context)

    def on_given_up(self, failure: FailedDelivery, error: BaseException) -> None:
        """Remember a failure."""
        self._failures.append(Failure(failure, error))


@dataclass(slots=True)
class _Injection:
    """Failures still to come; without end, if `left` is None."""

    error: BaseException | Callable[[], BaseException]
    left: int | None

    def next_error(self) -> BaseException:
        if self.left is not None:
            self.left -= 1
        made = self.error if isinstance(self.error, BaseException) else self.error()
        return made.with_traceback(None)


def _let_fail() -> RuntimeError:
    return RuntimeError("the test lets it fail")


def _event_of(message: Message, topic: str | Topic[Any]) -> object:
    """Give what `where` looks at: the topic's model, or the payload as it was published."""
    return topic.validate(message.payload) if isinstance(topic, Topic) else message.payload


def _instead(
    published: Sequence[Message], near: Sequence[Message], found: Sequence[Message]
) -> str:
    """Say what was published in place of what should have been."""
    if len(near) > len(found):
        return f"`where` refused {_some(one.payload for one in near if one not in found)}"
    if found:
        return f"these did: {_some(one.payload for one in found)}"
    topics = Counter(one.topic for one in published)
    return f"published was to {', '.join(f'{t!r} ({n})' for t, n in topics.items()) or 'no topic'}"


def _some(things: Iterable[object]) -> str:
    texts = [str(one) if isinstance(one, Failure) else repr(one) for one in things]
    unsaid = len(texts) - SHOWN
    return "; ".join(texts[:SHOWN]) + (f"; and {unsaid} more" if unsaid > 0 else "")
