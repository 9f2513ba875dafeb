"""The figures of an event bus for Prometheus.

The package holds alert rules and a Grafana dashboard too: `alerts.yml` and `dashboard.json`.
"""

__all__ = ("BusCollector", "Durations")

from eventbus_prometheus.collector import BusCollector
from eventbus_prometheus.durations import Durations
