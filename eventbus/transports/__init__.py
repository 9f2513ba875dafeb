"""What carries messages between publishers and subscriptions."""

__all__ = ()
