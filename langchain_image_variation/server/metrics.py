"""Metrics for Prometheus: requests by path and status, durations, failed images, and the queue."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from langchain_image_variation.server.paths import PATHS
from langchain_image_variation.server.turns import Turns
from langchain_image_variation.server.upload_memory import UploadMemory

__all__ = ["Metrics"]

_LABELS = {path.label for path in PATHS}


class Metrics:
    """The metrics of one app, separate from those of other apps in the process."""

    def __init__(self, turns: Turns, upload_memory: UploadMemory) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "image_variation_requests",
            "Requests answered.",
            ("path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "image_variation_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("path",),
            registry=self._registry,
        )
        self._failed_images = Counter(
            "image_variation_failed_images",
            "Images that answers with other images lack.",
            registry=self._registry,
        )
        for name, description in (
            ("running", "Engine calls in progress."),
            ("waiting", "Requests that wait for the engine."),
        ):
            gauge = Gauge(f"image_variation_{name}", description, registry=self._registry)
            gauge.set_function(lambda name=name: getattr(turns, f"{name}_count"))  # type: ignore[misc]  # bound now
        upload_bytes = Gauge(
            "image_variation_upload_bytes",
            "Memory reserved for uploads in progress.",
            registry=self._registry,
        )
        upload_bytes.set_function(lambda: upload_memory.held_bytes)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request. An unknown path counts as "other"."""
        label = next((p for p in _LABELS if path == p or path.startswith(f"{p}/")), "other")
        self._requests.labels(label, status or 499).inc()
        self._seconds.labels(label).observe(seconds)

    def count_failed_images(self, number: int) -> None:
        """Count images that an answer lacks."""
        self._failed_images.inc(number)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
