"""Middleware is any async callable of the right shape, and policies stand beside it."""

from datetime import timedelta
from typing import Any, assert_type

from eventbus import Context, EventBus, Message, Receipt, Router
from eventbus.middleware import (
    CallNext,
    CircuitBreaker,
    Correlate,
    DeadLetter,
    Deduplicate,
    Filter,
    Log,
    Middleware,
    Policy,
    PublishMiddleware,
    PublishNext,
    Retry,
    Throttle,
    Timeout,
    Transform,
    correlation_id,
)


async def timing(context: Context[Any], call_next: CallNext) -> object:
    return await call_next(context)


class Tenant:
    async def __call__(self, context: Context[Any], call_next: CallNext) -> object:
        return await call_next(context)


async def stamping(message: Message, call_next: PublishNext) -> Receipt:
    return await call_next(message.replace(headers={"tenant": "a"}))


class Stamping:
    async def __call__(self, message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message)


def sync(context: Context[Any], call_next: CallNext) -> object:
    return None


async def alone(context: Context[Any]) -> object:
    return None


async def text(context: str, call_next: CallNext) -> object:
    return None


async def returns_nothing(message: Message, call_next: PublishNext) -> None:
    await call_next(message)


layers: list[Middleware | Policy] = [timing, Tenant(), Log(), Filter(lambda context: True)]
policies: list[Policy] = [Retry(), DeadLetter(), Timeout(1.0)]
layers += [Deduplicate(), Deduplicate(3600.0, key=lambda event: event.order_id, size=1000)]
assert_type(correlation_id(), str | None)
policies += [
    Correlate(),
    Throttle(10),
    Throttle(1, per=timedelta(minutes=1)),
    CircuitBreaker(reset=60),
]
EventBus(middleware=[timing, Tenant(), Retry(), Log()], publish_middleware=[stamping, Stamping()])
Router("orders", middleware=[timing, Timeout(1.0)])
publishing: PublishMiddleware = stamping
publishing = Transform(lambda message: message.replace(headers={"tenant": "a"}))

EventBus(middleware=[sync])  # expect-error
EventBus(middleware=[alone])  # expect-error
EventBus(middleware=[text])  # expect-error
EventBus(middleware=[stamping])  # expect-error
EventBus(middleware=["retry"])  # expect-error
EventBus(publish_middleware=[timing])  # expect-error
EventBus(publish_middleware=[returns_nothing])  # expect-error
EventBus(publish_middleware=[Retry()])  # expect-error
Deduplicate(key="order_id")  # expect-error
Deduplicate(window="1h")  # expect-error
Transform(lambda message: None)  # expect-error
Transform()  # expect-error
EventBus(middleware=[Transform(lambda message: message)])  # expect-error
Throttle()  # expect-error
Throttle(0.5)  # expect-error
CircuitBreaker(after=5)  # expect-error
EventBus(publish_middleware=stamping)  # expect-error
not_awaited: Middleware = sync  # expect-error
a_class: Middleware = Tenant  # expect-error
no_policy: Policy = timing  # expect-error


async def changes(message: Message, call_next: PublishNext) -> Receipt:
    await call_next("orders.created")  # expect-error
    return message
