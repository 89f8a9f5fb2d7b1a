"""How long a session may be without activity. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

REQUESTED_BY = "sweeper"
"""Who asks for the scheduled sweeps."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Hours without activity after which a sweep ends a session: a persona's own, else those of all others."""

    hours: float
    of_personas: Mapping[str, float] = field(default_factory=dict)

    def of(self, persona_id: str) -> float:
        """Return the hours of a persona's sessions."""
        return self.of_personas.get(persona_id, self.hours)

    def limits(self, as_of: datetime) -> tuple[datetime, list[str], list[datetime], datetime]:
        """Return the times before which activity is too old at `as_of`.

        The latest of all, the personas that have their own, theirs, and that of all others: what COUNT_STALE and
        LOCK_STALE take.
        """
        personas = sorted(self.of_personas)
        own = [as_of - timedelta(hours=self.of_personas[persona]) for persona in personas]
        others = as_of - timedelta(hours=self.hours)
        return max([others, *own]), personas, own, others
