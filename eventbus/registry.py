"""Who is subscribed: by name, with groups joined and contracts checked."""

__all__ = ("Defaults", "Found", "Registry")

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, TypeAlias, cast

from eventbus.answers import Answer
from eventbus.clock import seconds_of
from eventbus.contracts import Contracts, Stated, Topic
from eventbus.errors import DuplicateSubscription, InvalidOption, UnsupportedByTransport
from eventbus.handlers import check_name, default_name
from eventbus.middleware import DeadLetter, Middleware, Policy, Retry
from eventbus.middleware.chain import innermost
from eventbus.queue import Overflow
from eventbus.registration import HandlerOptions, Registration, SubscribeOptions
from eventbus.responders import Responders
from eventbus.schema import Schema, schema_of
from eventbus.subscription import Counts, Host, Member, Options, Subscription
from eventbus.topics import is_reserved
from eventbus.transports.base import Capabilities
from eventbus.transports.exchange import Exchange
from eventbus.wording import did_you_mean

Found: TypeAlias = tuple[Subscription, Member]

MAX_DELIVERIES = 20
RESPONDERS_AT_ONCE = 16
ACK_WAIT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the bus says where a subscription does not."""

    queue_size: int
    overflow: Overflow
    middleware: tuple[Middleware | Policy, ...]


class Registry:
    """All subscriptions of a bus.

    `ended` sums up those that are gone.
    """

    def __init__(
        self, host: Host, exchange: Exchange, contracts: Contracts, defaults: Defaults
    ) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.ended = Counts()
        self._is_running = False
        self._host = host
        self._exchange = exchange
        self._contracts = contracts
        self._defaults = defaults
        self._responders = Responders()
        self._ending: set[Subscription] = set()
        self._last_numbers: dict[str, int] = {}
        # One schema per model, shared: it is most of what an idle subscription would weigh.
        self._schemas: dict[Schema[Any], Schema[Any]] = {}

    def register(self, registration: Registration) -> None:
        """Add a handler: to the group it names, else as a subscription of its own.

        Raises:
            ContractError, UnknownTopic: It contradicts what the topics carry.
            DuplicateSubscription: Its explicit name is taken, or what it would answer.
            InvalidOption: It says otherwise than the group it joins.
        """
        assert registration.shape is not None  # noqa: S101 - complete registrations alone come here
        options = registration.options
        subscription = self._group_of(registration)
        if subscription is None:
            subscription = self._open(
                self._name(registration),
                registration.patterns,
                registration.topics,
                registration.model,
                self._options_of(registration),
                is_group="group" in options,
            )
        concurrency = options.get("concurrency") or (
            RESPONDERS_AT_ONCE if registration.answer else 1
        )
        subscription.add_member(Member(registration.handler, registration.shape, concurrency))

    def add_iterator(
        self,
        patterns: tuple[str, ...],
        topics: tuple[Topic[Any], ...],
        model: object,
        options: SubscribeOptions[Any],
    ) -> Subscription:
        """Add a subscription that is read by iteration.

        Raises:
            ContractError, UnknownTopic, DuplicateSubscription: As `register`.
        """
        return self._open(
            self._free_name(options.get("name"), "iterator"),
            patterns,
            topics,
            model,
            replace(
                self._options(options, self._defaults.middleware), is_iterated=True, transacts=False
            ),
            is_group=False,
        )

    def schema_to_read(
        self,
        patterns: tuple[str, ...],
        topics: tuple[Topic[Any], ...],
        model: object,
        *,
        silent: bool,
    ) -> Schema[Any] | None:
        """Give what validates messages that are only read again.

        Raises:
            ContractError, UnknownTopic: As `register`.
        """
        self._admit(patterns, topics)
        schema = self._shared(schema_of(model))
        self._contracts.refuse_misfits("replay", patterns, schema, silent=silent)
        return schema

    def find(self, handler_or_name: str | Callable[..., object]) -> list[Found]:
        """Find the members that a name or a handler stands for.

        Raises:
            InvalidOption: There are none.
        """
        if isinstance(handler_or_name, str):
            named = self.subscriptions.get(handler_or_name)
            found = [] if named is None else [(named, member) for member in named.members]
        else:
            found = [
                (subscription, member)
                for subscription in self.subscriptions.values()
                for member in subscription.members
                if member.handler == handler_or_name
            ]
        if not found:
            raise InvalidOption(
                f"{handler_or_name!r} is not subscribed: give a handler of this bus, or a name, "
                f"as {', '.join(map(repr, islice(self.subscriptions, 5))) or 'one of `on`'}"
                f"{did_you_mean(str(handler_or_name), self.subscriptions)}"
            )
        return found

    def close(self, subscription: Subscription) -> None:
        """Route nothing more to a subscription; what is queued is still handled; idempotent."""
        self._exchange.close(subscription)
        self._responders.remove(subscription)
        self._ending.add(subscription)
        if subscription.queue is not None:
            subscription.queue.close()

    def forget(self, subscription: Subscription) -> None:
        """Forget a closed subscription but for its figures; its name is free again."""
        if self.subscriptions.get(subscription.name) is subscription:
            del self.subscriptions[subscription.name]
            self._ending.discard(subscription)
            subscription.stop(iterates=False)
            self.ended.add(subscription.counts)

    def stop(self) -> int:
        """End all that runs, for good what was closed; give how many deliveries were abandoned."""
        abandoned = 0
        for subscription in tuple(self.subscriptions.values()):
            abandoned += subscription.stop()
            if subscription in self._ending:
                self.forget(subscription)
            elif not subscription.members:  # its iterator has ended, also if the bus begins anew
                self._exchange.close(subscription)
        return abandoned

    def begin(self) -> None:
        """Check all that is registered against all contracts, and from now on each at once.

        Raises:
            ContractError: A subscription's model fits none of the contracts its patterns overlap.
        """
        self._is_running = True
        for subscription in self.subscriptions.values():
            self._check_fit(subscription)
            self._check_ability(subscription)

    # --- making one -------------------------------------------------------------------------

    def _open(
        self,
        name: str,
        patterns: tuple[str, ...],
        topics: tuple[Stated, ...],
        model: object,
        options: Options,
        *,
        is_group: bool,
    ) -> Subscription:
        self._admit(patterns, topics)
        schema = self._shared(schema_of(model))
        subscription = Subscription(name, patterns, schema, options, self._host, is_group=is_group)
        if self._is_running or self._contracts.is_closed:
            self._check_fit(subscription)
        if self._is_running:
            self._check_ability(subscription)
        self._responders.add(subscription)
        subscription.source = self._exchange.open(subscription)
        self.subscriptions[name] = subscription
        return subscription

    def _admit(self, patterns: tuple[str, ...], topics: tuple[Stated, ...]) -> None:
        for pattern in patterns:
            self._contracts.admit(pattern)
        for topic in topics:
            self._contracts.learn(topic)

    def _options_of(self, registration: Registration) -> Options:
        own = registration.middleware
        middleware = (*self._defaults.middleware, *own)
        letters = innermost(middleware, DeadLetter)
        return self._options(
            registration.options,
            middleware,
            is_sequenced=letters is not None
            and letters.sequenced
            and not all(map(is_reserved, registration.patterns)),
            answer=registration.answer,
            buries_requests=bool(own) and innermost(own, DeadLetter) is not None,
            retries_answers=bool(own) and innermost(own, Retry) is not None,
        )

    def _options(
        self,
        given: HandlerOptions[Any] | SubscribeOptions[Any],
        middleware: tuple[Middleware | Policy, ...],
        *,
        is_sequenced: bool = False,
        answer: Answer | None = None,
        buries_requests: bool = False,
        retries_answers: bool = False,
    ) -> Options:
        told = cast("HandlerOptions[Any]", given)
        is_named = bool(told.get("name") or told.get("group"))
        can_do = self._exchange.capabilities
        is_durable = told.get("durable", is_named and can_do.durable)
        return Options(
            is_durable=bool(is_durable),
            is_sequenced=is_sequenced,
            # A reply goes out by itself, so that a responder's SQL cannot be of one commit with it.
            transacts=bool(is_durable) and can_do.transactions and answer is None,
            start=told.get("start", "new"),
            ack_wait=seconds_of("ack_wait", told.get("ack_wait", ACK_WAIT)),
            where=given.get("where"),
            key=given.get("key"),
            queue_size=given.get("queue_size") or self._defaults.queue_size,
            overflow=given.get("overflow") or self._defaults.overflow,
            skips_invalid=given.get("invalid") == "skip",
            skips_replays=not given.get("replay", True),
            ack=told.get("ack", "auto"),
            max_deliveries=told.get("max_deliveries", MAX_DELIVERIES),
            middleware=middleware,
            answer=answer,
            buries_requests=buries_requests,
            retries_answers=retries_answers,
        )

    def _check_fit(self, subscription: Subscription) -> None:
        if subscription.options.answer is not None:
            subscription.options.answer.complete()
        self._contracts.refuse_misfits(
            subscription.name,
            subscription.patterns,
            subscription.schema,
            silent=subscription.options.skips_invalid or not self._is_running,
        )

    def _check_ability(self, subscription: Subscription) -> None:
        flaw = _beyond(self._exchange.capabilities, subscription)
        if flaw is not None:
            raise UnsupportedByTransport(f"subscription {subscription.name!r}: {flaw}")

    def _shared(self, schema: Schema[Any] | None) -> Schema[Any] | None:
        return None if schema is None else self._schemas.setdefault(schema, schema)

    # --- names and groups -------------------------------------------------------------------

    def _name(self, registration: Registration) -> str:
        options = registration.options
        explicit = options.get("name") or options.get("group")
        default = default_name(registration.handler)
        return self._free_name(explicit, default)

    def _free_name(self, explicit: str | None, default: str) -> str:
        if explicit is not None and explicit in self.subscriptions:
            raise DuplicateSubscription(
                f"a subscription is named {explicit!r} already: choose another name, or put both "
                f"handlers into group={explicit!r} if they are to share its messages"
            )
        name = explicit or check_name(default)
        if name in self.subscriptions:
            # From where the last one was found: else the n-th of a name would try n of them.
            numbers = count(self._last_numbers.get(default, 1) + 1)
            number = next(n for n in numbers if f"{default}-{n}" not in self.subscriptions)
            self._last_numbers[default] = number
            name = f"{default}-{number}"
        return name

    def _group_of(self, registration: Registration) -> Subscription | None:
        """Find the group a registration joins; it must mean the same messages, handled alike."""
        options = registration.options
        group = self.subscriptions.get(options.get("group") or "")
        if group is None or not group.is_group or group in self._ending:
            return None
        told = self._options_of(registration)
        differs = [
            word
            for word, field in _SHARED_OPTIONS.items()
            if word in options and getattr(told, field) != getattr(group.options, field)
        ]
        if set(registration.patterns) != set(group.patterns):
            differs.append("patterns")
        if self._shared(schema_of(registration.model)) != group.schema:
            differs.append("model")
        if told.answer != group.options.answer:
            differs.append("reply")
        if differs:
            same = "the same function object" if {"where", "key"} & {*differs} else "the same"
            raise InvalidOption(
                f"group={group.name!r} differs in {' and '.join(differs)}: its handlers share "
                f"messages, so say {same}, leave it out, or take another group"
            )
        return group


def _beyond(capabilities: Capabilities, subscription: Subscription) -> str | None:
    """Say what a subscription asks that a transport cannot do."""
    options = subscription.options
    if subscription.is_group and not capabilities.groups:
        return "it is a group, but this transport gives each process every message; take name="
    if options.is_durable and not capabilities.durable:
        return "durable=True, but this transport keeps nothing; take sqlite:///events.db, say"
    if options.start != "new" and not capabilities.replay:
        return f"start={options.start!r}, but this transport keeps nothing to begin with"
    if options.is_sequenced and not (options.is_durable and capabilities.sequences):
        return (
            "DeadLetter(sequenced=True), but what waits for a dead letter waits in a file, for a "
            "subscription with a name=; use EventBus('sqlite:///events.db'), say, or DeadLetter()"
        )
    if options.answer is not None and not capabilities.requests:
        return "it answers requests, which this transport does not carry; use a bus in memory, say"
    if capabilities.feeds or options.overflow == "block":
        return None
    if options.is_durable:
        return (
            f"overflow={options.overflow!r}, but what is durable waits in the store, and nothing "
            "of it is dropped; give overflow='block'"
        )
    if options.overflow == "fail":
        return "overflow='fail', but publishers do not see its queue; give another overflow"
    return None


_SHARED_OPTIONS = {
    "where": "where",
    "key": "key",
    "queue_size": "queue_size",
    "overflow": "overflow",
    "invalid": "skips_invalid",
    "replay": "skips_replays",
    "ack": "ack",
    "max_deliveries": "max_deliveries",
    "durable": "is_durable",
    "start": "start",
    "ack_wait": "ack_wait",
    "middleware": "middleware",
}
