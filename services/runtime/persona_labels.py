"""Personas as labels of metrics: a bounded number of them, whatever is published."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from prometheus_client import Gauge

MAX_PERSONAS = 200
"""Personas that a process tells apart in labels; later ones count as OTHER."""

OTHER = "other"


class PersonaLabels:
    """Gives each persona its label: its own id to the first MAX_PERSONAS that are asked for, OTHER to the rest."""

    def __init__(self) -> None:
        self._own: set[str] = set()

    def of(self, persona_id: str) -> str:
        """Return the persona's label: always the same one."""
        if persona_id not in self._own:
            if len(self._own) >= MAX_PERSONAS:
                return OTHER
            self._own.add(persona_id)
        return persona_id


class PersonaGauge:
    """A gauge by persona. Those that share a label show the worst of their values."""

    def __init__(self, gauge: Gauge, labels: PersonaLabels, worst: Callable[[Iterable[float]], float]) -> None:
        self._gauge = gauge
        self._labels = labels
        self._worst = worst
        self._values: dict[str, dict[str, float]] = defaultdict(dict)

    def set(self, persona_id: str, value: float) -> None:
        """The persona's value is this one now. Costs next to nothing where it was before."""
        label = self._labels.of(persona_id)
        values = self._values[label]
        if values.get(persona_id) != value:
            values[persona_id] = value
            self._gauge.labels(label).set(self._worst(values.values()))
