from hypothesis import given
from hypothesis import strategies as st

from eventbus.cache import BoundedCache

SIZE = 4


def filled(*keys: int) -> BoundedCache[int, str]:
    """Make a small cache that was given these keys."""
    cache = BoundedCache[int, str](SIZE)
    for key in keys:
        cache.put(key, str(key))
    return cache


def test_a_value_that_was_put_comes_back() -> None:
    """The cache gives what was stored last under a key, and None for other keys."""
    cache = filled(1)
    cache.put(1, "new")
    assert cache.get(1) == "new"
    assert cache.get(2) is None


def test_an_unused_key_is_forgotten_after_two_generations() -> None:
    """A key that nobody asks for is gone once two further generations have come."""
    cache = filled(0, *range(1, 2 * SIZE + 1))
    assert cache.get(0) is None
    assert cache.get(2 * SIZE) == str(2 * SIZE)


def test_a_used_key_stays() -> None:
    """A key that is asked for in every generation outlives any number of others."""
    cache = filled(0)
    for key in range(1, 100 * SIZE):
        cache.put(key, str(key))
        assert cache.get(0) == "0"


def test_putting_a_known_key_forgets_nothing() -> None:
    """A new value for a key of the full young generation needs no room."""
    cache = filled(*range(SIZE), *range(SIZE), *range(SIZE))
    assert list(cache.young) == list(range(SIZE))
    assert len(cache) == SIZE


def test_the_young_generation_stays_one_dict() -> None:
    """A reference to `young` taken at the start sees the newest keys after many generations."""
    cache = filled()
    young = cache.young
    for key in range(10 * SIZE):
        cache.put(key, str(key))
        assert young[key] == str(key)
    cache.clear()
    assert young == {}
    assert cache.young is young


def test_clear_forgets_both_generations() -> None:
    """Nothing that was stored is found after `clear`."""
    keys = range(SIZE + 1)
    cache = filled(*keys)
    cache.clear()
    assert len(cache) == 0
    assert [cache.get(key) for key in keys] == [None] * len(keys)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4 * SIZE))))
def test_it_keeps_its_bound_and_the_latest_keys(steps: list[tuple[bool, int]]) -> None:
    """Whatever is put and read, at most 2 * size keys are there, and the last `size` used are."""
    cache = filled()
    used: dict[int, str] = {}
    for step, (is_put, key) in enumerate(steps):
        if is_put:
            cache.put(key, f"{key} at {step}")
        found = cache.get(key)
        assert found == f"{key} at {step}" if is_put else found in (None, used.get(key))
        if found is not None:
            used.pop(key, None)
            used[key] = found
        assert len(cache) <= 2 * SIZE
    for key in list(used)[-SIZE:]:
        assert cache.get(key) == used[key]
