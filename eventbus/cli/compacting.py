"""`eventbus compact`: a store as small as it can be."""

__all__ = ("compact",)

from eventbus.cli.show import AsJson, progress, show_line
from eventbus.cli.store import Purpose, Url, opened
from eventbus.cli.text import counted, json_text, size


def compact(*, url: Url, as_json: AsJson = False) -> None:
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
    _tell(
        after.removed - before.removed,
        max(0, before.size - after.size),
        after.size,
        as_json=as_json,
    )


def _tell(removed: int, freed: int, left: int, *, as_json: bool) -> None:
    if as_json:
        show_line(json_text({"removed": removed, "freed": freed, "size": left}))
        return
    show_line(
        f"removed {counted(removed, 'record')} and freed {size(freed)}: {size(left)} are left"
    )
