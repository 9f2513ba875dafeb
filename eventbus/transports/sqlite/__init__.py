"""An event log in one SQLite file."""

__all__ = ("Settings", "SqliteTransport")

from eventbus.transports.sqlite.settings import Settings
from eventbus.transports.sqlite.store import SqliteTransport
