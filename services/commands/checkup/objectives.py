"""Looks at what users got within an hour, beside what is promised to them: a reply, and soon."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, Select, TableValuedAlias, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from services.commands.checkup.findings import Finding, notice, well, wrong
from services.commands.checkup.personas import last_answer
from services.commands.diagnosis.causes import CAUSES
from services.commands.wording import counted, duration, listed, shown
from services.contracts.session import FailureKind, SessionStatus
from services.database import tables as t
from services.database.audit_words import Action
from services.database.partitions import id_at
from services.database.rollups import (
    GLOBAL,
    PERSONA_PREFIX,
    Granularity,
    bucket_of,
    response_bucket,
)

MAY_FAIL, MAY_BE_SLOW = 0.01, 0.05
"""The shares of sessions and of replies that the objectives in deploy/prometheus/alerts.yml allow."""
SLOW_MS = 10_000
FAST = 14.4
"""So many times what is allowed, and a month's budget is gone within two days."""
ENOUGH = 10
"""Sessions; a share of fewer says nothing."""
RECENT = timedelta(hours=1)
_MOST_NAMED = 3
_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of the sessions that started within the hour, by rollup scope."""

    scope: str
    completed: int = 0
    failed: int = 0
    slow: int = 0
    kinds: Sequence[str] = ()
    """The kinds of failure among them, the most frequent first, where they were looked for."""
    answers_again: bool = False
    """Whether its newest session that ended was answered."""
    is_deleted: bool = False
    """Whether the persona is not there any more, and nothing is to be done about it."""
    was_paused: bool = False
    """Whether a pause of the persona ended within the hour: its messages waited on purpose."""

    @property
    def persona_id(self) -> str:
        """The persona's id; of everyone's outcomes it means nothing."""
        return self.scope.removeprefix(PERSONA_PREFIX)

    @property
    def persona(self) -> str:
        """The persona's id, fit to be shown."""
        return shown(self.persona_id, 128)


async def check_objectives(connection: AsyncConnection) -> list[Finding]:
    """Return whether sessions end well and replies come soon, and which personas they wait for where not."""
    since = datetime.now(UTC) - RECENT
    outcomes = [
        Outcomes(scope, int(completed), int(failed), int(slow))
        for scope, completed, failed, slow in await connection.execute(_outcomes(since))
    ]
    everyone = next((one for one in outcomes if one.scope == GLOBAL), Outcomes(GLOBAL))
    personas = [one for one in outcomes if one.scope != GLOBAL]
    failing = sorted((one for one in personas if one.failed), key=lambda one: -one.failed)[:_MOST_NAMED]
    kinds = (await connection.execute(_kinds(since, failing))).all() if failing else []
    there = {*await connection.scalars(_there(failing))} if failing else set()
    failing = [_failing(one, [kind for scope, kind in kinds if scope == one.scope], there) for one in failing]
    failing = [replace(one, answers_again=await _answers_again(connection, one)) for one in failing]
    slow = sorted((one for one in personas if one.slow), key=lambda one: -one.slow)[:_MOST_NAMED]
    share = await connection.scalar(_webhooks_share(since, slow[0])) if slow else None
    resumed = {*await connection.scalars(_resumed(since, slow))} if slow else set()
    slow = [replace(one, was_paused=one.persona_id in resumed) for one in slow]
    timed_out = int(await connection.scalar(_timed_out(since)) or 0)
    return [success(everyone, failing, timed_out), response(everyone, slow, None if share is None else float(share))]


def _failing(one: Outcomes, kinds: Sequence[str], there: Set[str]) -> Outcomes:
    # What fails as unknown was never there, or is still asked for: of that there is something to be told.
    is_deleted = one.persona_id not in there and kinds[:1] != [FailureKind.UNKNOWN_PERSONA]
    return replace(one, kinds=kinds, is_deleted=is_deleted)


async def _answers_again(connection: AsyncConnection, one: Outcomes) -> bool:
    """Tell whether the persona has replied after its newest failure."""
    now = datetime.now(UTC)
    completed = await connection.scalar(last_answer(one.persona_id, SessionStatus.COMPLETED, now))
    failed = await connection.scalar(last_answer(one.persona_id, SessionStatus.FAILED, now))
    return completed is not None and (failed is None or completed > failed)


def success(everyone: Outcomes, failing: Sequence[Outcomes], timed_out: int) -> Finding:
    """Return whether few enough sessions ended badly; `failing` are the personas of most failures, the worst first.

    `timed_out` is how many were ended by sweeps: they started long before.
    """
    check, bad = "sessions.success", everyone.failed + timed_out
    ended = everyone.completed + bad
    figures = {"ended": ended, "failed": everyone.failed, "timedOut": timed_out}
    if ended <= ENOUGH or bad <= MAY_FAIL * ended:
        told = f"of {counted(ended, 'session')} within an hour {bad or 'none'} ended badly."
        return well(check, told if ended else "no session ended within an hour.", **figures)
    parts = [f"{one.persona} {one.failed} ({', '.join(one.kinds) or 'of unknown kind'})" for one in failing]
    parts += [f"{timed_out} timed out"] if timed_out else []
    others = everyone.failed - sum(one.failed for one in failing)
    more = f" and {others} more" if others > 0 else ""
    told = f"of {ended} sessions within an hour {bad} ({bad / ended:.0%}) ended badly: {', '.join(parts)}{more}."
    is_fast = bad > FAST * MAY_FAIL * ended
    return (wrong if is_fast else notice)(check, told, _mend(everyone, failing, timed_out), **figures)


def _mend(everyone: Outcomes, failing: Sequence[Outcomes], timed_out: int) -> str:
    """Return what to do about each persona's most frequent failure."""
    of_step = dict[str, list[str]]()
    for one in failing:
        for kind in () if one.is_deleted or one.answers_again else one.kinds[:1]:
            of_step.setdefault(CAUSES[FailureKind(kind)][1], []).append(one.persona)
    steps = [f"{listed(names)}: {step}" for step, names in of_step.items()]
    if again := [one.persona for one in failing if one.answers_again and not one.is_deleted]:
        answer = "answers" if len(again) == 1 else "answer"
        steps.append(f"{listed(again)} {answer} again: nothing but to retry what failed")
    if not steps and failing and all(one.is_deleted for one in failing):
        steps.append("nothing: the personas that failed are deleted")
    if not steps or timed_out > everyone.failed:
        steps.append("see the groups, and the executions in n8n: for a long time nothing came back")
    return f"{'; '.join(steps)}."


def response(everyone: Outcomes, slow: Sequence[Outcomes], webhooks_share: float | None) -> Finding:
    """Return whether few enough replies took long; `slow` are the personas of most such replies, the worst first.

    `webhooks_share` is how much of the worst one's time went by in its webhook; None where that is not known.
    """
    check, limit = "sessions.response", duration(SLOW_MS / 1000)
    figures = {"replies": everyone.completed, "slow": everyone.slow, "webhooksShare": webhooks_share}
    replies = counted(everyone.completed, "reply", "replies")
    told = f"of {replies} within an hour {everyone.slow or 'none'} took longer than {limit}"
    if everyone.completed <= ENOUGH or everyone.slow <= MAY_BE_SLOW * everyone.completed:
        return well(check, f"{told}." if everyone.completed else "there was no reply within an hour.", **figures)
    told += f": {', '.join(f'{one.persona} {one.slow}' for one in slow)}"
    step = "see in n8n which node of its executions takes so long."
    if webhooks_share is not None:
        told += f"; {webhooks_share:.0%} of {slow[0].persona}'s time went by in its webhook"
        if webhooks_share < 0.5:
            step = "messages wait before their calls: see the group webhook-dispatcher, and start another dispatcher."
    if paused := [one.persona for one in slow if one.was_paused]:
        were = "was" if len(paused) == 1 else "were"
        step = (
            f"{listed(paused)} {were} paused within the hour, and waiting for the end of that counts; otherwise: {step}"
        )
    is_fast = everyone.slow > FAST * MAY_BE_SLOW * everyone.completed
    return (wrong if is_fast else notice)(check, f"{told}.", step, **figures)


def _outcomes(since: datetime) -> Select[Any]:
    """Return the query of everyone's outcomes, and of those of each persona."""
    rollup = t.session_rollups.c
    pair = _pairs(rollup.response_buckets, rollup.response_counts)
    slow = select(func.coalesce(func.sum(pair.c.count), 0)).where(pair.c.of > response_bucket(SLOW_MS))
    sums = [func.sum(of) for of in (rollup.completed, rollup.failed, slow.scalar_subquery())]
    theirs = or_(rollup.scope == GLOBAL, rollup.scope.startswith(PERSONA_PREFIX, autoescape=True))
    return select(rollup.scope, *sums).where(*_within(since), theirs).group_by(rollup.scope)


def _kinds(since: datetime, of: Sequence[Outcomes]) -> Select[Any]:
    """Return the query of their kinds of failure, the most frequent first."""
    rollup = t.session_rollups.c
    pair = _pairs(rollup.failure_kinds, rollup.failure_counts)
    theirs = rollup.scope.in_([one.scope for one in of])
    return (
        select(rollup.scope, pair.c.of)
        .select_from(t.session_rollups.join(pair, true()))
        .where(*_within(since), theirs)
        .group_by(rollup.scope, pair.c.of)
        .order_by(func.sum(pair.c.count).desc())
    )


def _pairs(keys: Column[Any], counts: Column[Any]) -> TableValuedAlias:
    """Return what two arrays of a rollup hold, side by side: `of` and `count`."""
    return func.unnest(keys, counts).table_valued("of", "count").render_derived()


def _there(of: Sequence[Outcomes]) -> Select[Any]:
    """Return the query of the ids of those personas that there are."""
    persona = t.personas.c.persona_id
    return select(persona).where(persona.in_([one.persona_id for one in of]))


def _within(since: datetime) -> tuple[Any, ...]:
    rollup = t.session_rollups.c
    return rollup.granularity == Granularity.MINUTE, rollup.bucket >= bucket_of(since, Granularity.MINUTE)


def _webhooks_share(since: datetime, of: Outcomes) -> Select[Any]:
    """Return the query of how much of the time of a persona's newest slow sessions went by in its webhook."""
    session, event = t.chat_sessions.c, t.session_events.c
    newest = (
        select(session.session_id, session.response_ms)
        .where(
            session.persona_id == of.persona_id,
            session.status == SessionStatus.COMPLETED,
            session.session_id >= id_at(since),
            session.response_ms > SLOW_MS,
        )
        .order_by(session.session_id.desc())
        .limit(_LOOKED_AT)
        .subquery()
    )
    ended = (event.session_id == newest.c.session_id) & (event.type == "WebhookSucceeded")
    took = event.body["durationMs"].as_integer()
    return select(func.sum(took) / func.sum(newest.c.response_ms)).select_from(newest.join(t.session_events, ended))


def _resumed(since: datetime, of: Sequence[Outcomes]) -> Select[Any]:
    """Return the query of those of these personas whose pause ended."""
    log, ids = t.audit_log.c, [one.persona_id for one in of]
    return select(log.target).where(log.action == Action.PERSONA_RESUME, log.at >= since, log.target.in_(ids))


def _timed_out(since: datetime) -> Select[Any]:
    sweep = t.sweeps.c
    return select(func.sum(sweep.timed_out)).where(sweep.as_of >= since, sweep.dry_run.is_(False))
