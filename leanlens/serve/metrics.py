"""What a server has done, in the text form that Prometheus reads.

Comes in: numbers as things happen, from any thread. Goes out: one page of text. Knows nothing of what they mean.

Source: Prometheus text exposition format 0.0.4.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms by name and label, and gauges that are asked when the page is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, str] = {}
        self._counts: dict[str, dict[str, float]] = {}
        self._times: dict[str, list[float]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def counter(self, name: str, help: str) -> None:
        """Make a counter known, so that it is on the page before anything is counted."""
        self._help[name] = help
        self._counts[name] = {}

    def gauge(self, name: str, help: str, ask: Callable[[], float]) -> None:
        """Make a number known that is asked for when the page is."""
        self._help[name] = help
        self._gauges[name] = ask

    def histogram(self, name: str, help: str) -> None:
        """Make a histogram of seconds known."""
        self._help[name] = help
        self._times[name] = [0.0] * (len(_SECONDS) + 2)  # one for each bound, one beyond them, and the sum

    def count(self, name: str, amount: float = 1, **labels: object) -> None:
        """Add to a counter."""
        written = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
        key = f"{{{written}}}" if written else ""
        with self._lock:
            self._counts[name][key] = self._counts[name].get(key, 0) + amount

    def observe(self, name: str, seconds: float) -> None:
        """Add one time to a histogram."""
        with self._lock:
            self._times[name][bisect_left(_SECONDS, seconds)] += 1
            self._times[name][-1] += seconds

    def page(self) -> str:
        """All of them as text."""
        gauges = {name: ask() for name, ask in self._gauges.items()}
        lines: list[str] = []
        with self._lock:
            for name, values in self._counts.items():
                lines += self._heading(name, "counter")
                lines += [f"{name}{key} {value:g}" for key, value in sorted(values.items())] or [f"{name} 0"]
            for name, value in gauges.items():
                lines += [*self._heading(name, "gauge"), f"{name} {value:g}"]
            for name, buckets in self._times.items():
                lines += [*self._heading(name, "histogram"), *_histogram(name, buckets)]
        return "\n".join(lines) + "\n"

    def _heading(self, name: str, kind: str) -> list[str]:
        return [f"# HELP {name} {self._help[name]}", f"# TYPE {name} {kind}"]


def _histogram(name: str, buckets: list[float]) -> list[str]:
    lines, below = [], 0.0
    for bound, number in zip(_SECONDS, buckets, strict=False):
        below += number
        lines.append(f'{name}_bucket{{le="{bound:g}"}} {below:g}')
    total = below + buckets[len(_SECONDS)]
    return [*lines, f'{name}_bucket{{le="+Inf"}} {total:g}', f"{name}_sum {buckets[-1]:g}", f"{name}_count {total:g}"]


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def server_metrics() -> Metrics:
    """Metrics with every name this server counts by."""
    metrics = Metrics()
    metrics.counter("leanlens_requests_total", "Answered HTTP requests by API and status.")
    metrics.counter("leanlens_pictures_total", "Tasks by how they ended.")
    metrics.counter("leanlens_batches_total", "Batches drawn; pictures per batch is the ratio of the two.")
    metrics.counter("leanlens_model_openings_total", "Models opened, at the start and when another is asked for.")
    metrics.histogram("leanlens_wait_seconds", "From a task's arrival to its first step.")
    metrics.histogram("leanlens_draw_seconds", "Of one batch, from its first step to its pixels.")
    return metrics
