"""Whether an entry may begin now, and the lane of its key that it holds meanwhile."""

__all__ = ("keep_lane", "leave_lane", "may_start")

from eventbus.message import Delivery, Entry
from eventbus.subscription import Worker


def may_start(worker: Worker, entry: Entry) -> bool:
    """Ask whether an entry begins now; else it is counted as what it is, and no attempt."""
    subscription = worker.subscription
    if subscription.may_expire and subscription.has_expired(entry):
        worker.uncount()
        worker.current = None
        worker.lane = entry.lane if isinstance(entry, Delivery) else None
        subscription.counts.expired += 1
        leave_lane(worker)
        return False
    return not subscription.has_lanes or _enter_lane(worker, entry)


def _enter_lane(worker: Worker, entry: Entry) -> bool:
    """Take the lane of the entry's key; False if it has to wait behind another of that key."""
    subscription, lanes = worker.subscription, worker.subscription.lanes
    worker.lane = entry.lane if isinstance(entry, Delivery) else None
    if worker.lane is not None or lanes is None:
        return True
    key = subscription.key_of(entry)
    if key is not None and not lanes.enter(key, entry):
        worker.uncount()
        worker.current = None
        return False
    worker.lane = key
    return True


def leave_lane(worker: Worker) -> None:
    """Let the next of the key begin, if this one had a lane."""
    if worker.lane is not None:
        worker.subscription.leave_lane(worker.lane)
        worker.lane = None


def keep_lane(worker: Worker, entry: Entry) -> str | None:
    """Close the lane behind an entry that will be tried again, if it does not hold it already."""
    subscription, lanes = worker.subscription, worker.subscription.lanes
    lane, worker.lane = worker.lane, None
    if lane is None and lanes is not None:
        lane = subscription.slot_of(entry)
        if lane is not None:
            lanes.enter(lane, entry)
    return lane
