"""How a URL finds its transport, and what is said when it finds none."""

import pytest

from eventbus import EventBus, InvalidOption, SystemClock, UnknownTransport
from eventbus.plugins import transport_for
from eventbus.timers import Timers
from eventbus.transports.memory import MemoryTransport


@pytest.mark.parametrize("url", ["memory://", "MEMORY://", "memory:"])
def test_memory_carries_messages_in_this_process(url: str) -> None:
    """The scheme alone says it, in any case of letters."""
    clock = SystemClock()

    assert isinstance(transport_for(url, clock, Timers(clock)), MemoryTransport)


@pytest.mark.parametrize("scheme", ["nats", "redis", "sqlite", "memori"])
def test_an_unknown_scheme_names_the_plugin_to_install(scheme: str) -> None:
    """The next step stands in the error."""
    with pytest.raises(UnknownTransport, match=rf"'{scheme}'.*pip install eventbus-{scheme}"):
        EventBus(f"{scheme}://host:4222/path?option=1")


@pytest.mark.parametrize(
    "url",
    [
        "nats://user:s3cret@host",
        "redis://:s3cret@host:6379/0",
        "nats://host?password=s3cret",
        "nats://s3cret",
        "memory://user:s3cret@host",
        "memory://host?password=s3cret",
        "memory:///s3cret",
    ],
)
def test_no_error_shows_what_may_be_a_password(url: str) -> None:
    """Errors end up in logs; a URL's user, host, path and values do not."""
    with pytest.raises((UnknownTransport, InvalidOption)) as caught:
        EventBus(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "memory", "/tmp/events.db", "://", "//host"])  # noqa: S108
def test_what_has_no_scheme_is_no_transport(url: str) -> None:
    """The error says what would be one."""
    with pytest.raises(UnknownTransport, match="memory://"):
        EventBus(url)


@pytest.mark.parametrize("url", [None, 1, b"memory://", ["memory://"]], ids=repr)
def test_what_is_no_text_is_no_url(url: object) -> None:
    """It is refused as an option that cannot be used, with its value."""
    with pytest.raises((UnknownTransport, InvalidOption), match="memory://"):
        EventBus(url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("memory://?size=5", "'size'"),
        ("memory://?durability=", "'durability'"),
        ("memory://host", "host"),
        ("memory:///path", "path"),
    ],
)
def test_memory_refuses_what_it_does_not_have(url: str, flaw: str) -> None:
    """An option that would be ignored is a mistake."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus(url)


@pytest.mark.parametrize(
    "url", ["nats://[::1", "nats://[host]", "memory://[", "redis://:a@[s3cret"]
)
def test_a_broken_url_is_an_error_of_ours(url: str) -> None:
    """What Python cannot even split is refused like any other, and not shown."""
    with pytest.raises((UnknownTransport, InvalidOption)) as caught:
        EventBus(url)

    assert "s3cret" not in str(caught.value)
