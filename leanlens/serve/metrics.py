"""What a server counts and measures, for Prometheus.

Source: Prometheus text exposition format 0.0.4, as `prometheus_client` writes it.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class ServerMetrics:
    """The metrics of one server.

    Attributes:
        requests: answered HTTP requests by API and status.
        images: tasks by how they ended.
        batches: batches drawn.
        model_openings: models opened.
        wait_seconds: from a task's arrival to its start.
        draw_seconds: of one batch.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # the time of each series' first count: twice the series, and nobody reads it
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "leanlens_requests_total", "Answered HTTP requests by API and status.", "door", "status"
        )
        self.images = self._counter("leanlens_pictures_total", "Tasks by how they ended.", "state")
        self.batches = self._counter("leanlens_batches_total", "Batches drawn. The ratio to images is the batch size.")
        self.model_openings = self._counter(
            "leanlens_model_openings_total", "Models opened, at the start and when another is asked for."
        )
        self.wait_seconds = self._seconds("leanlens_wait_seconds", "From a task's arrival to its first step.")
        self.draw_seconds = self._seconds("leanlens_draw_seconds", "Of one batch, from its first step to its pixels.")

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Add a number that is read whenever the page is."""
        Gauge(name, help, registry=self.registry).set_function(read)

    def page(self) -> str:
        """All metrics as text."""
        return generate_latest(self.registry).decode()

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _seconds(self, name: str, help: str) -> Histogram:
        return Histogram(name, help, buckets=_SECONDS, registry=self.registry)
