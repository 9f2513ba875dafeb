"""Zstandard, wherever it comes from; importing this fails where it is not installed."""

__all__ = ("compress", "parts_of")

import sys
from collections.abc import Iterator, Mapping

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress

_WINDOW: Mapping[int, int] = {DecompressionParameter.window_log_max: 22}
"""What a decompressor may set aside, as a power of two: 4 MiB, where data may ask for 128."""


def parts_of(data: bytes, most: int) -> Iterator[bytes]:
    """Decompress data, at most so many bytes at a time.

    Raises:
        ValueError: It is damaged, cut off, or followed by something else.
    """
    decompressor = ZstdDecompressor(options=_WINDOW)
    while not decompressor.eof:
        try:
            part = decompressor.decompress(data, most)
        except ZstdError as error:
            raise ValueError(str(error)) from error
        data = b""
        if not part and decompressor.needs_input:
            raise ValueError("it is cut off")
        yield part
    if decompressor.unused_data:
        raise ValueError("something follows it")
