"""Tests watch the application's own bus, and jump over an hour of backoff.

Prints:

    3 attempts, the last after 60 minutes
    written: {'report': 'May'}
    2 messages should have been published to 'reports.*', and 1 fitted; these did: {'report': 'May'}
    waited for a moment
"""

import logging
import sys
import time

import anyio

from eventbus import Context, EventBus
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import TestBus, virtual_backend

# As an application has it: nothing here knows of tests.
patient = Retry(attempts=3, initial=20 * 60, maximum=3600, jitter=False)  # seconds
bus = EventBus(middleware=[DeadLetter(), patient])


@bus.on("months.ended")
async def write_report(event: dict[str, str], context: Context[dict[str, str]]) -> None:
    await context.publish("reports.written", {"report": event["month"]})


async def test_a_report_is_written_although_the_printer_is_away() -> None:
    async with TestBus.around(bus) as test:
        test.fail(write_report, times=2, error=ConnectionError("no printer"))
        began = bus.clock.monotonic()
        await bus.publish("months.ended", {"month": "May"})
        await bus.join()  # retries included
        minutes = (bus.clock.monotonic() - began) / 60
        print(f"{test.attempts(write_report)} attempts, the last after {minutes:.0f} minutes")
        [message] = test.assert_published("reports.written", times=1)
        print("written:", message.payload)
        try:
            test.assert_published("reports.*", times=2)
        except AssertionError as error:
            print(error)


# With pytest, the fixture `event_clock` or the mark `virtual_time` does this.
if __name__ == "__main__":
    logging.getLogger("eventbus").addHandler(logging.NullHandler())  # else retries go to stderr
    started = time.perf_counter()
    name, options = virtual_backend("trio" if "--trio" in sys.argv else "asyncio")
    run = test_a_report_is_written_although_the_printer_is_away
    anyio.run(run, backend=name, backend_options=options)
    print("waited for", "a moment" if time.perf_counter() - started < 60 else "an hour")
