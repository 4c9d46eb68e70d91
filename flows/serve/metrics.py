"""What is counted, in the text format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Of one server. `going` and `waiting` are read when somebody asks."""

    def __init__(self, going: Callable[[], float], waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "moslim_requests", "Requests for an answer by status; 499: the client went away", ["status"], registry=self._registry
        )
        self.prompt_tokens = Counter("moslim_prompt_tokens", "Tokens of the prompts that were answered", registry=self._registry)
        self.answer_tokens = Counter("moslim_answer_tokens", "Tokens of the answers", registry=self._registry)
        self.seconds = Histogram(
            "moslim_request_seconds", "From a request to the end of its answer", buckets=SECONDS, registry=self._registry
        )
        self.first_seconds = Histogram(
            "moslim_first_piece_seconds", "From a request to the first piece of its answer", buckets=SECONDS, registry=self._registry
        )
        Gauge("moslim_requests_going", "Requests that are being answered or wait", registry=self._registry).set_function(going)
        Gauge("moslim_requests_waiting", "Requests whose answer has not begun", registry=self._registry).set_function(waiting)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
