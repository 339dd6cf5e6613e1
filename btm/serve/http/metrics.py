"""Metrics for Prometheus: requests by endpoint and status, seconds, tokens, places taken."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from btm.serve.engine import Engine

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counts of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        """Count from 0; what the engine does is asked of it when somebody reads."""
        self.registry = CollectorRegistry()
        self.registry.register(_OfEngine(engine))
        self.requests = Counter(
            "btm_http_requests",
            "Requests that were answered or refused",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "btm_http_request_seconds",
            "Seconds from the first byte of a request to the last of its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "btm_first_token_seconds",
            "Seconds until the first token of a streamed answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.gone = Counter(
            "btm_clients_gone",
            "Answers that were given up, since the client hung up or did not read them",
            registry=self.registry,
        )
        self.models = Gauge("btm_models", "Models that are served", registry=self.registry)
        self.reloads = Counter(
            "btm_reloads", "Times that other models were found", registry=self.registry
        )

    def page(self) -> bytes:
        """Write all counts in Prometheus' text format."""
        return generate_latest(self.registry)


class _OfEngine(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterator[Metric]:
        """Describe nothing: a registry would else count an engine that has not begun."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield what the engine does."""
        counts = self._engine.counts()
        yield GaugeMetricFamily("btm_running", "Answers that are written now", counts.running)
        yield GaugeMetricFamily("btm_waiting", "Answers that wait for a place", counts.waiting)
        yield CounterMetricFamily("btm_prompt_tokens", "Tokens of prompts read", counts.read)
        yield CounterMetricFamily("btm_written_tokens", "Tokens written", counts.written)
