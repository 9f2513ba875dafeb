"""What wraps handlers and publishes: middleware, and the policies of an attempt."""

__all__ = (
    "Binding",
    "CallNext",
    "CircuitBreaker",
    "Correlate",
    "DeadLetter",
    "Deduplicate",
    "Filter",
    "Log",
    "Middleware",
    "Policy",
    "PublishMiddleware",
    "PublishNext",
    "Retry",
    "Throttle",
    "Timeout",
    "Transform",
    "correlation_id",
)

from eventbus.middleware.chain import (
    Binding,
    CallNext,
    Middleware,
    Policy,
    PublishMiddleware,
    PublishNext,
)
from eventbus.middleware.circuit_breaker import CircuitBreaker
from eventbus.middleware.correlate import Correlate, correlation_id
from eventbus.middleware.dead_letter import DeadLetter
from eventbus.middleware.deduplicate import Deduplicate
from eventbus.middleware.filter import Filter
from eventbus.middleware.log import Log
from eventbus.middleware.retry import Retry
from eventbus.middleware.throttle import Throttle
from eventbus.middleware.timeout import Timeout
from eventbus.middleware.transform import Transform
