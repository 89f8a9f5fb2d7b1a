"""What every process counts of its own log."""

from prometheus_client import CollectorRegistry, Counter

from services.runtime.logs import count_left_out


class LogMetrics:
    """Declared once a process, and counting from then on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.left_out = Counter(
            "chat_log_lines_left_out",
            "Lines that told a fault again within a minute, and are not in the log",
            ["logger"],
            registry=registry,
        )
        count_left_out(self.left_out)
