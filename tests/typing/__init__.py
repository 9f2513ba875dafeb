"""Programs that are only ever read by type checkers.

A line that ends with `# expect-error` is wrong on purpose, and each checker must say so; nothing
else may be reported. `tests/test_typing.py` runs the checkers.
"""
