"""An event log in one SQLite file."""

__all__ = ("WAITING", "Settings", "SqliteTransport", "StoreView", "is_locked", "may_write")

from eventbus.transports.sqlite.edge import WAITING
from eventbus.transports.sqlite.lock import is_locked
from eventbus.transports.sqlite.settings import Settings
from eventbus.transports.sqlite.store import SqliteTransport
from eventbus.transports.sqlite.view import StoreView, may_write
