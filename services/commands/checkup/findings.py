"""What a check of the system found, and how it is told: in lines for people, in JSON for scripts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

Figure = str | int | float | bool | None


class Level(StrEnum):
    """How well the part is that was looked at."""

    WELL = "well"
    NOTICE = "notice"
    """Worth knowing; nobody needs to get up for it."""
    WRONG = "wrong"


_MARKS = {Level.WELL: "✓", Level.NOTICE: "!", Level.WRONG: "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `check` is a stable name, `PART.WHAT`; the texts are for people and may change."""

    check: str
    level: Level
    told: str
    """A whole sentence: what is so."""
    next_step: str | None = None
    """What to do about it; always there where something is wrong."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """What the sentence rests on, by stable names."""


def well(check: str, told: str, **figures: Figure) -> Finding:
    """A part that is as it should be."""
    return Finding(check, Level.WELL, told, None, figures)


def notice(check: str, told: str, next_step: str, **figures: Figure) -> Finding:
    """Something that may become wrong, or cannot be told."""
    return Finding(check, Level.NOTICE, told, next_step, figures)


def wrong(check: str, told: str, next_step: str, **figures: Figure) -> Finding:
    """Something that keeps the system from doing its work."""
    return Finding(check, Level.WRONG, told, next_step, figures)


def all_well(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing is wrong; notices do not count."""
    return all(finding.level is not Level.WRONG for finding in findings)


def line(finding: Finding) -> str:
    """Return the finding as one line."""
    told = f"{_MARKS[finding.level]} {finding.check}: {finding.told}"
    return told if finding.next_step is None else f"{told} → {finding.next_step}"


def document(findings: Sequence[Finding]) -> dict[str, object]:
    """Return what `--json` prints; docs/doctor.md describes it, and fields are only added."""
    return {
        "well": all_well(findings),
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.value,
                "told": finding.told,
                "next": finding.next_step,
                "figures": dict(finding.figures),
            }
            for finding in findings
        ],
    }
