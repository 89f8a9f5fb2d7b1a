"""Looks at the personas: what their webhooks last answered, as the sessions of a day tell.

Only dispatchers may call a webhook, so nothing is called here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from sqlalchemy import Select, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from services.commands.checkup.findings import Finding, notice, well
from services.commands.diagnosis.causes import CAUSES
from services.commands.wording import counted, duration, shown, utc
from services.contracts.session import FailureKind, SessionStatus
from services.database import tables as t
from services.database.partitions import id_at

RECENT = timedelta(hours=24)
MOST_PERSONAS = 1_000
_CHECK = "personas"
_OF_ITS_SETTINGS = {
    FailureKind.CONNECT,
    FailureKind.TLS,
    FailureKind.HTTP_4XX,
    FailureKind.NOT_REGISTERED,
    FailureKind.UNAUTHORIZED,
}
"""What the persona's address or credentials may be wrong for."""


@dataclass(frozen=True, slots=True)
class PersonaState:
    """A persona with its last answers; the times are when their sessions ended."""

    persona_id: str
    paused: bool
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    failure_kind: str | None = None
    webhook_url: str = ""

    @property
    def is_well(self) -> bool:
        """Whether it is not paused, and its last answer was no failure."""
        fails = self.failed_at is not None and (self.completed_at is None or self.failed_at > self.completed_at)
        return not self.paused and not fails


async def check_personas(connection: AsyncConnection) -> list[Finding]:
    """Return what is found of every persona: paused ones, those that fail, and the rest together."""
    now = datetime.now(UTC)
    rows = await connection.execute(_last_answers(now))
    return personas([PersonaState(*row) for row in rows], now)


def personas(states: Sequence[PersonaState], now: datetime) -> list[Finding]:
    """Return a finding for each persona that is paused or whose last answer was a failure, and one for the rest."""
    if not states:
        step = "make one with `chat-sessions persona set`; until then every message fails as unknown-persona."
        return [notice(_CHECK, "there is none.", step)]
    findings = [_of(state, now) for state in states if not state.is_well]
    rest = [state for state in states if state.is_well]
    if rest:
        answered = sum(state.completed_at is not None for state in rest)
        are = "is" if len(rest) == 1 else "are"
        told = f"{counted(len(rest), 'persona')} {are} well; {answered or 'none'} of them replied within a day."
        findings.append(well(_CHECK, told, personas=len(rest), answered=answered))
    return findings


def _of(state: PersonaState, now: datetime) -> Finding:
    check = f"{_CHECK}.{shown(state.persona_id, 128)}"
    figures = {
        "paused": state.paused,
        "lastCompletedAt": None if state.completed_at is None else utc(state.completed_at),
        "lastFailedAt": None if state.failed_at is None else utc(state.failed_at),
        "lastFailureKind": state.failure_kind if state.failed_at else None,
    }
    if state.paused:
        step = f"when its workflow is well: `chat-sessions persona resume {shown(state.persona_id, 128)}`."
        return notice(check, "it is paused: its messages wait.", step, **figures)
    kind, failed_at = FailureKind(state.failure_kind or FailureKind.HTTP_5XX), state.failed_at or now
    success = "none within a day" if state.completed_at is None else f"{_ago(state.completed_at, now)} ago"
    told = f"its last answer, {_ago(failed_at, now)} ago, was a failure ({kind}{_host(state)}); its last success: "
    _, step = CAUSES[kind]
    if kind in _OF_ITS_SETTINGS:
        name = shown(state.persona_id, 128)
        step += f": `chat-sessions persona get {name}`, then `persona set {name}` with all options that it is to have"
    return notice(check, f"{told}{success}.", f"{step}.", **figures)


def _host(state: PersonaState) -> str:
    """Return where its webhook is, without the path: that may be a secret."""
    host = urlsplit(state.webhook_url).netloc.rpartition("@")[2]
    return f" at {shown(host, 128)}" if host else ""


def _ago(moment: datetime, now: datetime) -> str:
    return duration(max(0.0, (now - moment).total_seconds()))


def _last_answers(now: datetime) -> Select[str, bool, datetime, datetime, str, str]:
    persona = t.personas.c
    first = (
        select(persona.persona_id, persona.paused, persona.webhook_url)
        .order_by(persona.persona_id)
        .limit(MOST_PERSONAS)
        .subquery("persona")
    )
    completed = last_answer(first.c.persona_id, SessionStatus.COMPLETED, now).lateral("completed")
    failed = last_answer(first.c.persona_id, SessionStatus.FAILED, now).lateral("failed")
    return (
        select(
            first.c.persona_id,
            first.c.paused,
            completed.c.ended_at,
            failed.c.ended_at,
            failed.c.failure_kind,
            first.c.webhook_url,
        )
        .select_from(first.outerjoin(completed, true()).outerjoin(failed, true()))
        .order_by(first.c.persona_id)
    )


def last_answer(persona_id: object, status: SessionStatus, now: datetime) -> Select[datetime, str]:
    """Return the newest session of a persona with this status, of a day: one look into an index."""
    session = t.chat_sessions.c
    return (
        select(session.ended_at, session.failure_kind)
        .where(session.persona_id == persona_id, session.status == status, session.session_id >= id_at(now - RECENT))
        .order_by(session.session_id.desc())
        .limit(1)
    )
