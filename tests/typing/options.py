"""Options are checked by name, word and function."""

from datetime import timedelta

from eventbus import EventBus, Router, SystemClock
from eventbus.middleware import DeadLetter, Retry, Timeout
from tests.typing.shop import CREATED, SHIPPED, Created, Shipped, bus

bus.on(
    CREATED,
    name="audit",
    where=lambda event: event.order_id != "",
    key=lambda event: event.order_id,
    concurrency=8,
    queue_size=16,
    overflow="drop_oldest",
    invalid="skip",
    middleware=[Retry(attempts=3), Timeout(5.0), DeadLetter()],
    max_deliveries=5,
    ack="manual",
)
bus.on(CREATED, name="audit", start="first", replay=False)
bus.on("orders.*", group="billing", where=lambda event: bool(event))
bus.on(CREATED, name=None, group=None, where=None, key=None, concurrency=None)
bus.on(CREATED, SHIPPED, queue_size=None, overflow=None)
bus.on(CREATED, SHIPPED, where=lambda event: isinstance(event, Created))


def is_foreign(event: Created) -> bool:
    return event.order_id.startswith("x")


def is_large(event: Shipped) -> bool:
    return event.parcel == "large"


def order_of(event: Created) -> str:
    return event.order_id


def number_of(event: Created) -> int:
    return int(event.order_id)


def says_nothing(event: Created) -> None: ...


async def is_late(event: Created) -> bool:
    return False


bus.on(CREATED, where=is_foreign, key=order_of)
bus.on("orders.*", model=Created, where=is_foreign, key=order_of)
bus.on(CREATED, where=is_large)  # expect-error
bus.on(CREATED, SHIPPED, where=is_foreign)  # expect-error
bus.on(CREATED, where=number_of)  # expect-error
bus.on(CREATED, where=says_nothing)  # expect-error
bus.on(CREATED, where=is_late)  # expect-error
bus.on(CREATED, where=lambda event: event.parcel == "large")  # expect-error
bus.on(CREATED, where=True)  # expect-error
bus.on(CREATED, key=number_of)  # expect-error
bus.on(CREATED, key=lambda event: len(event.order_id))  # expect-error
bus.on(CREATED, key="order_id")  # expect-error
bus.on("orders.*", model=Created, where=is_large)  # expect-error
bus.on("orders.*", model=Created, key=number_of)  # expect-error

bus.on(CREATED, overflow="blocks")  # expect-error
bus.on("orders.*", model=Created, overflow="drop")  # expect-error
bus.on("orders.*", overflow="drop-oldest")  # expect-error
bus.on(CREATED, invalid="ignore")  # expect-error
bus.on(CREATED, ack="never")  # expect-error
bus.on(CREATED, ack=None)  # expect-error
bus.on(CREATED, replay="skip")  # expect-error
bus.on(CREATED, concurency=8)  # expect-error
bus.on("orders.*", concurency=8)  # expect-error
bus.on("orders.*", model=Created, grup="billing")  # expect-error
bus.on(CREATED, concurrency="8")  # expect-error
bus.on(CREATED, queue_size="8")  # expect-error
bus.on(CREATED, invalid=None)  # expect-error
bus.on(CREATED, name=1)  # expect-error
bus.on(CREATED, middleware=Retry())  # expect-error
bus.on(CREATED, middleware=[Retry])  # expect-error
bus.on(CREATED, delay=1.0)  # expect-error
bus.on(CREATED, retries=3)  # expect-error

EventBus("memory://", drain_timeout=timedelta(seconds=5), clock=SystemClock(), name="shop")
EventBus(middleware=[DeadLetter()], queue_size=10, overflow="latest", threads=4)
EventBus(overflow="blocks")  # expect-error
EventBus(queue_sise=10)  # expect-error
EventBus(middleware=DeadLetter())  # expect-error
EventBus(middleware=[DeadLetter])  # expect-error
EventBus(clock="now")  # expect-error
EventBus(drain_timeout="30s")  # expect-error
EventBus(1)  # expect-error
Router("orders", middleware=[Timeout])  # expect-error

Retry(attempts=3, on=(OSError, ValueError), never=KeyError, initial=timedelta(seconds=1))
Retry(attempts="3")  # expect-error
Retry(on=1)  # expect-error
Retry(tries=3)  # expect-error
Timeout("5s")  # expect-error
