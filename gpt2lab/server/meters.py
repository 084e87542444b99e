"""The metrics of a server, in a registry of its own, in Prometheus's text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpt2lab.server.served import Served

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Meters:
    """Counters of requests, seconds and rows. Labels are routes and status codes, never prompts."""

    def __init__(self, served: Served) -> None:
        self._registry, self._served = CollectorRegistry(), served
        own = self._registry
        self.requests = Counter(
            "gpt2lab_requests", "Answers by route and status.", ["route", "status"], registry=own
        )
        self.seconds = Histogram(
            "gpt2lab_request_seconds", "Time of answers.", ["route"], buckets=_SECONDS, registry=own
        )
        self.gone = Counter("gpt2lab_clients_gone", "Clients that left early.", registry=own)
        self.running = Gauge("gpt2lab_rows", "Rows that wait or run.", ["model"], registry=own)
        self.steps = Gauge("gpt2lab_steps", "Steps of the engine.", ["model"], registry=own)
        self.generated = Gauge(
            "gpt2lab_generated_tokens", "Tokens generated.", ["model"], registry=own
        )

    def text(self) -> bytes:
        """All of them as text."""
        for model in self._served.models.values():
            scheduler = model.scheduler
            self.running.labels(model.id).set(scheduler.waiting)
            self.steps.labels(model.id).set(scheduler.steps)
            self.generated.labels(model.id).set(scheduler.tokens)
        return generate_latest(self._registry)
