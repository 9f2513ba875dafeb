"""`python -m examples.webhooks FILE [--json] [--backend trio]`.

Reads GitHub's webhook deliveries, one JSON object a line: `{"topic": "github.<event>.<action>",
"payload": {...}}`. Ends with what each handler counted, as a table or as JSON. Lines that cannot be
used are reported on stderr; the exit code is 1 if there were any.
"""

import logging
import sys
from argparse import ArgumentParser, Namespace
from functools import partial

import anyio
from anyio import get_all_backends

from examples.table import Row, print_table
from examples.webhooks.dispatch import HandlerReport, Report, dispatch


def main() -> int:
    options = parse_arguments()
    # Refusals are reported below, by line; without this, Python writes the bus's log to stderr.
    logging.getLogger("eventbus").addHandler(logging.NullHandler())
    try:
        with open(options.file, "rb") as lines:
            complain = partial(print, file=sys.stderr)
            report = anyio.run(dispatch, lines, complain, backend=options.backend)
    except OSError as error:
        print(f"Cannot read {options.file}: {error.strerror}.", file=sys.stderr)
        return 1
    show_json(report) if options.json else show_table(report)
    return 0 if report.is_clean else 1


def parse_arguments() -> Namespace:
    parser = ArgumentParser(
        prog="python -m examples.webhooks",
        description="Dispatch GitHub's webhook deliveries to typed handlers.",
    )
    parser.add_argument("file", help='lines of {"topic": ..., "payload": ...}')
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--backend", choices=get_all_backends(), default="asyncio", help="the event loop to run on"
    )
    return parser.parse_args()


def show_json(report: Report) -> None:
    print(report.model_dump_json(indent=2))


def show_table(report: Report) -> None:
    rows = [row(name, handler) for name, handler in report.handlers.items()]
    print_table(("handler", "handled", "refused", "most of all"), rows)
    print(
        f"deliveries published: {report.published}, to no handler: {report.unmatched}, "
        f"bad lines: {report.bad_lines}"
    )


def row(name: str, handler: HandlerReport) -> Row:
    most = list(handler.tally.items())[:3]
    return name, handler.handled, handler.refused, ", ".join(f"{what} {n}" for what, n in most)


if __name__ == "__main__":
    sys.exit(main())
