"""Middleware is any async callable of the right shape, and policies stand beside it."""

from datetime import timedelta
from typing import Any

from eventbus import Context, EventBus, Message, Receipt, Router
from eventbus.middleware import (
    CallNext,
    CircuitBreaker,
    DeadLetter,
    Filter,
    Log,
    Middleware,
    Policy,
    PublishMiddleware,
    PublishNext,
    Retry,
    Throttle,
    Timeout,
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
policies += [Throttle(10), Throttle(1, per=timedelta(minutes=1)), CircuitBreaker(reset=60)]
EventBus(middleware=[timing, Tenant(), Retry(), Log()], publish_middleware=[stamping, Stamping()])
Router("orders", middleware=[timing, Timeout(1.0)])
publishing: PublishMiddleware = stamping

EventBus(middleware=[sync])  # expect-error
EventBus(middleware=[alone])  # expect-error
EventBus(middleware=[text])  # expect-error
EventBus(middleware=[stamping])  # expect-error
EventBus(middleware=["retry"])  # expect-error
EventBus(publish_middleware=[timing])  # expect-error
EventBus(publish_middleware=[returns_nothing])  # expect-error
EventBus(publish_middleware=[Retry()])  # expect-error
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
