"""What the service counts, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one service; each has a registry of its own."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ztcir_requests",
            "Answered requests.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "ztcir_request_seconds",
            "Seconds from a request to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "ztcir_search_batch",
            "Queries that were answered at once.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.active = Gauge(
            "ztcir_active_requests", "Requests that are worked on.", registry=self.registry
        )
        self.items = Gauge("ztcir_index_items", "Images in the index.", registry=self.registry)
        self.references = Gauge(
            "ztcir_references", "Encoded images that are remembered.", registry=self.registry
        )

    def text(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        return generate_latest(self.registry)
