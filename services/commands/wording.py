"""How the tools of the command line put counts, lists and foreign text into words. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 record`, `2 records`; the plural is given where it has more than an s: `2 replies`."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def shown(text: str, longest: int) -> str:
    """Text that others wrote, as one word that does nothing to a terminal; cut after `longest` characters."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return cut if cut.isprintable() and cut and " " not in cut else repr(cut)


def utc(when: datetime) -> str:
    """`2026-11-23T10:00:00Z`: a time as JSON tells it everywhere in this system."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """`200 ms`, `1.5 s`, `12 s`, `3 min`, `2.5 h`, `4 days`: as exact as a person wants it."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"
