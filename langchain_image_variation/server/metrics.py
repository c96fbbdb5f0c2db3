"""What Prometheus may ask: requests by address and status, their seconds, the queue."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from langchain_image_variation.server.queue import EngineQueue

__all__ = ["Metrics"]

_ADDRESSES = (
    "/v1/images/variations",
    "/v1/models",
    "/files",
    "/healthz",
    "/metrics",
    "/openapi.json",
)


class Metrics:
    """The counters of one app, apart from those of any other in the process."""

    def __init__(self, queue: EngineQueue) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "image_variation_requests",
            "Requests answered.",
            ("path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "image_variation_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("path",),
            registry=self._registry,
        )
        for name, about in (("running", "Engine calls that run."), ("waiting", "Those that wait.")):
            gauge = Gauge(f"image_variation_{name}", about, registry=self._registry)
            gauge.set_function(lambda name=name: getattr(queue, name))  # type: ignore[misc]  # bound now

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request; a path of a stranger's making counts as "other"."""
        known = next((a for a in _ADDRESSES if path == a or path.startswith(f"{a}/")), "other")
        self._requests.labels(known, status or 499).inc()
        self._seconds.labels(known).observe(seconds)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
