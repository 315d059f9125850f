# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a server counts and measures, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


# Upper bounds in seconds: what is heard as at once, up to what nobody waits for
FIRST_AUDIO_BUCKETS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
# Speech is made in less time than it lasts up to 1
REAL_TIME_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 5)


class Metrics:
    """
    Attributes:
        sessions (`Gauge`): realtime sessions that are open.
        running (`Gauge`): answers that are made, of all endpoints.
        queue (`Gauge`): HTTP requests that wait for their turn.
        answers (`Counter`): answers that ended, by endpoint and outcome: finished, cancelled, refused or failed.
        refused (`Counter`): requests that got an error, by its code.
        first_audio (`Histogram`): seconds from the request, or the end of a spoken turn, to the first audio of its
            answer, by endpoint.
        real_time_factor (`Histogram`): seconds that an answer took to make over its seconds of speech, by endpoint.
    """

    def __init__(self):
        # of its own, so that two servers in one process do not count together
        self.registry = CollectorRegistry()
        of_all = {"namespace": "vita_audio", "registry": self.registry}
        self.sessions = Gauge("sessions", "Realtime sessions that are open", **of_all)
        self.running = Gauge("answers_running", "Answers that are made", **of_all)
        self.queue = Gauge("queue", "HTTP requests that wait for their turn", **of_all)
        self.answers = Counter("answers", "Answers that ended", ["endpoint", "outcome"], **of_all)
        self.refused = Counter("refused", "Requests that got an error", ["code"], **of_all)
        self.first_audio = Histogram(
            "first_audio_seconds",
            "From the request to the first audio",
            ["endpoint"],
            buckets=FIRST_AUDIO_BUCKETS,
            **of_all,
        )
        self.real_time_factor = Histogram(
            "real_time_factor",
            "Time to make an answer over the length of its speech",
            ["endpoint"],
            buckets=REAL_TIME_BUCKETS,
            **of_all,
        )

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


__all__ = ["Metrics"]
