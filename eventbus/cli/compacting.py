"""`eventbus compact`: a store as small as it can be."""

__all__ = ("compact",)

from eventbus.cli.show import progress, show_line
from eventbus.cli.store import Purpose, Url, opened
from eventbus.cli.text import counted, size


def compact(*, url: Url) -> None:
    """Remove now what is beyond the limits that the URL names, and give the room back to the disk.

    Others may use the store meanwhile. A file that an older eventbus made is written anew, once:
    who publishes waits for that, up to a minute.
    """
    with opened(url, Purpose.KEEPING) as store:
        before = store.figures()
        with progress("removing", before.last) as tell_progress:
            store.remove_now(tell_progress)
        pages = store.shrink()
        with progress("shrinking", pages) as tell_progress:
            while left := store.shrink():
                tell_progress(pages - left)
        after = store.figures()
    freed = max(0, before.size - after.size)
    show_line(
        f"removed {counted(after.removed - before.removed, 'record')} and freed {size(freed)}: "
        f"{size(after.size)} are left"
    )
