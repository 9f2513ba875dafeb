"""A tour of the bus in one run of a second or two: `python -m examples.demo [--backend trio]`.

Every section below is what registers the handlers, and then the function that puts them to work.
"""

import logging
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from textwrap import shorten
from time import perf_counter

import anyio
from anyio import create_task_group, get_all_backends, sleep
from pydantic import BaseModel

from eventbus import BusClosed, BusStats, Context, EventBus, SubscriptionStats, Topic
from eventbus.middleware import DeadLetter, Retry
from examples.table import Row, print_table


class Order(BaseModel):
    order_id: str
    cents: int


class Reading(BaseModel):
    celsius: float


ORDER_PLACED = Topic("orders.placed", Order)
ORDER_PAID = Topic("orders.paid", Order)
PARCEL = Topic("parcels.packed", Order)

bus = EventBus(name="shop", middleware=[DeadLetter(), Retry(attempts=2, initial=0.02)])
numbers = count(1)


def section(title: str) -> None:
    print(f"\n{next(numbers)}. {title}")


def say(text: str) -> None:
    print(f"   {text}")


# --- Publishers and subscribers -------------------------------------------------------------------


@bus.on(ORDER_PLACED, name="warehouse")
async def reserve(order: Order) -> None:
    say(f"{order.order_id} placed -> warehouse reserves it")


@bus.on(ORDER_PLACED, name="billing")
async def invoice(order: Order) -> None:
    say(f"{order.order_id} placed -> billing asks for {order.cents / 100:.2f}")


@bus.on(ORDER_PLACED, name="mail")
def thank(order: Order) -> None:  # not async: runs in a worker thread
    say(f"{order.order_id} placed -> mail says thank you")


@bus.on(ORDER_PAID, name="shipping")
async def ship(order: Order) -> None:
    say(f"{order.order_id} paid   -> shipping sends it")


async def website() -> None:
    for number in (1, 2):
        await bus.publish(ORDER_PLACED, Order(order_id=f"web-{number}", cents=990 * number))


async def till() -> None:
    await bus.publish(ORDER_PLACED, Order(order_id="till-1", cents=450))
    await bus.publish(ORDER_PAID, Order(order_id="till-1", cents=450))


async def bank() -> None:
    await bus.publish(ORDER_PAID, Order(order_id="web-1", cents=990))


async def publish_to_many() -> None:
    section("Three publishers, two topics; the three subscribers of one topic all hear it")
    async with create_task_group() as publishers:
        for publisher in (website, till, bank):
            publishers.start_soon(publisher)
    await bus.join()  # until nothing is queued or running


# --- Wildcards and content filters ----------------------------------------------------------------


@bus.on("sensors.{room}.temperature", model=Reading, name="display")
async def display(reading: Reading, context: Context[Reading]) -> None:
    say(f"display shows {reading.celsius:.0f} degrees in the {context.captures['room']}")


@bus.on("sensors.>", model=Reading, name="alarm", where=lambda reading: reading.celsius > 60)
async def alarm(reading: Reading, context: Context[Reading]) -> None:
    say(f"ALARM at {reading.celsius:.0f} degrees, on {context.message.topic}")


async def listen_by_pattern() -> None:
    section("A display on 'sensors.{room}.temperature'; an alarm on 'sensors.>' above 60 degrees")
    for topic, celsius in (
        ("sensors.hall.temperature", 21),
        ("sensors.kitchen.temperature", 74),
        ("sensors.cellar.boiler.temperature", 80),
    ):
        await bus.publish(topic, {"celsius": celsius})  # validated into a Reading
        await bus.join()


# --- Queue groups ---------------------------------------------------------------------------------

packed: Counter[str] = Counter()


def packer(name: str) -> Callable[[Order], Awaitable[None]]:
    async def pack(order: Order) -> None:
        await sleep(0.01)
        packed[name] += 1

    return pack


for person in ("Ann", "Ben", "Cem"):
    bus.on(PARCEL, group="packers")(packer(person))


async def share_work() -> None:
    section("A queue group: each of 9 parcels goes to one of three packers")
    await bus.publish_many(PARCEL, [Order(order_id=f"p-{n}", cents=0) for n in range(9)])
    await bus.join()
    shares = ", ".join(f"{name} {parcels}" for name, parcels in sorted(packed.items()))
    say(f"{packed.total()} parcels packed: {shares}")


# --- Back pressure --------------------------------------------------------------------------------


@bus.on("prints.requested", name="printer", queue_size=3)
async def print_slowly(_: dict[str, int]) -> None:
    await sleep(0.02)


async def milliseconds_to_publish(page: int) -> float:
    begin = perf_counter()
    await bus.publish("prints.requested", {"page": page})
    return 1000 * (perf_counter() - begin)


async def wait_for_the_slow() -> None:
    section("Back pressure: a printer needs 20 ms a page, and its queue holds 3")
    times = [await milliseconds_to_publish(page) for page in range(10)]
    waits = [time for time in times if time > 5]
    say(f"10 pages published in {sum(times):.0f} ms:")
    say(f"{len(times) - len(waits)} at once, in {sum(times) - sum(waits):.2f} ms together,")
    say(f"{len(waits)} had to wait, for {sum(waits) / len(waits):.0f} ms each")
    await bus.join()


# --- Dead letters ---------------------------------------------------------------------------------

card_reader = {"online": False}


@bus.on("payments.requested", model=Order, name="payments")
async def charge(order: Order, context: Context[Order]) -> None:
    say(f"charging {order.order_id}, attempt {context.attempt}")
    if not card_reader["online"]:
        raise ConnectionError("the card reader is offline")


async def show_dead_letters() -> None:
    for letter in reversed(await bus.dead_letters("payments")):
        reason = shorten(letter.error, 60, placeholder=" ...")
        when = f"after {letter.attempts} attempts" if letter.attempts else "refused unattempted"
        say(f"dead letter, {when}: {letter.error_type}: {reason}")


async def recover_from_failure() -> None:
    section("A handler that fails and a payload that is invalid end as dead letters")
    await bus.publish("payments.requested", {"order_id": "web-1", "cents": 990})
    await bus.publish("payments.requested", {"order_id": "web-2", "cents": "plenty"})
    await bus.join()
    await show_dead_letters()
    say("the card reader is mended; redriving both")
    card_reader["online"] = True
    say(f"{await bus.redrive('payments')} could be redriven; what stays:")
    await show_dead_letters()
    say(f"nothing will mend that: {await bus.purge_dead_letters('payments')} thrown away")


# --- Unsubscribing, draining ----------------------------------------------------------------------


@bus.on("news.published", name="newsletter")
async def read_news(news: dict[str, str]) -> None:
    say(f"newsletter: {news['title']}")


async def unsubscribe() -> None:
    section("Unsubscribing")
    receipt = await bus.publish("news.published", {"title": "We are open"})
    await bus.unsubscribe(read_news)  # after its queue
    say(f"the first news reached {receipt.matched} subscription; now it is unsubscribed")
    receipt = await bus.publish("news.published", {"title": "We are closed"})
    say(f"the second news reached {receipt.matched}")


async def drain() -> None:
    section("Draining: nothing new gets in, what was accepted is finished")
    for page in range(4):
        await bus.publish("prints.requested", {"page": page})
    before = bus.stats().subscriptions["printer"]
    await bus.drain()  # so does leaving `async with bus:`
    after = bus.stats().subscriptions["printer"]
    say(f"pages printed before {before.succeeded}, after {after.succeeded}")
    try:
        await bus.publish("prints.requested", {"page": 5})
    except BusClosed as refusal:
        say(f"BusClosed: {refusal}")


# --- The whole run --------------------------------------------------------------------------------


def row(name: str, s: SubscriptionStats | BusStats) -> Row:
    return name, s.delivered, s.succeeded, s.failed, s.retried, s.dead_lettered, s.filtered


def show_statistics() -> None:
    section("Statistics")
    stats = bus.stats()
    print_table(
        ("subscription", "delivered", "succeeded", "failed", "retried", "dead", "filtered"),
        [*(row(name, one) for name, one in stats.subscriptions.items()), row("all", stats)],
    )
    say("(the newsletter has ended, and still counts in 'all')")
    say(f"{stats.published} messages published, {stats.unmatched} of them to nobody")


async def tour() -> None:
    section("The bus starts")
    say(f"before: {bus!r}")
    async with bus:
        say(f"inside `async with bus:` {bus!r}")
        await publish_to_many()
        await listen_by_pattern()
        await share_work()
        await wait_for_the_slow()
        await recover_from_failure()
        await unsubscribe()
        await drain()
    show_statistics()
    print("\nThe same bus on real input: python -m examples.webhooks FILE")


def main() -> None:
    parser = ArgumentParser(prog="python -m examples.demo", description="A tour of the bus.")
    parser.add_argument(
        "--backend", choices=get_all_backends(), default="asyncio", help="the event loop to run on"
    )
    # The tour says itself what fails; without this, Python writes the bus's log to stderr.
    logging.getLogger("eventbus").addHandler(logging.NullHandler())
    anyio.run(tour, backend=parser.parse_args().backend)


if __name__ == "__main__":
    main()
