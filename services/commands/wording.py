"""How the tools of the command line put counts, lists and foreign text into words. Pure."""

from collections.abc import Sequence


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, noun: str) -> str:
    """`1 record`, `2 records`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown(text: str, longest: int) -> str:
    """Text that others wrote, as one word that does nothing to a terminal; cut after `longest` characters."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return cut if cut.isprintable() and cut and " " not in cut else repr(cut)
