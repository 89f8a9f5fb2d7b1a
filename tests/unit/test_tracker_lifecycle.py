"""The state machine: every status with every event, and any order of them."""

from datetime import timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts.events import (
    EVENT_CLASSES,
    CancelRequested,
    ErasureRequested,
    MessageSent,
    ReplyDelta,
    SessionChanged,
    TimeoutSweep,
    WebhookAttempted,
    WebhookFailed,
    WebhookSucceeded,
)
from services.contracts.session import AttemptOutcome, FailureKind, SessionStatus
from services.session_tracker.lifecycle import EFFECTS, Effect, NotInLifecycle, Session, apply, effect, opened
from tests.sample_events import SessionEvents, sweep

ENDINGS = {
    WebhookSucceeded: SessionStatus.COMPLETED,
    WebhookFailed: SessionStatus.FAILED,
    CancelRequested: SessionStatus.CANCELLED,
    TimeoutSweep: SessionStatus.TIMEOUT,
}
TERMINALS = ("succeeded", "failed", "cancelled")


def event_of(event_class: type, events: SessionEvents):
    makers = {
        MessageSent: events.sent,
        WebhookAttempted: events.attempted,
        WebhookSucceeded: events.succeeded,
        WebhookFailed: events.failed,
        CancelRequested: events.cancelled,
        TimeoutSweep: sweep,
    }
    return makers[event_class]()


def session_with(status: SessionStatus, events: SessionEvents) -> Session:
    session = opened(events.sent())
    for event_class, ending in ENDINGS.items():
        if ending is status:
            session = apply(session, event_of(event_class, events))
    assert session.status is status
    return session


@pytest.mark.parametrize("status", SessionStatus)
@pytest.mark.parametrize("event_class", EVENT_CLASSES)
def test_every_status_meets_every_event(status: SessionStatus, event_class: type) -> None:
    events = SessionEvents()
    session = session_with(status, events)
    if event_class in {ErasureRequested, SessionChanged, ReplyDelta}:
        with pytest.raises(NotInLifecycle, match=f"{event_class.__name__} does not apply to a session that is"):
            effect(status, event_class.model_construct())
        return
    event = event_of(event_class, events)
    after = apply(session, event)
    if event_class in {MessageSent, WebhookAttempted}:
        assert after.status is status
        assert after.ended_at == session.ended_at
        assert after.version == session.version + 1
    elif status is SessionStatus.ACTIVE:
        assert after.status is ENDINGS[event_class]
        assert after.ended_at is not None
    else:
        assert after is None


def test_the_table_lists_every_legal_pair_and_no_other() -> None:
    legal = {MessageSent, WebhookAttempted, *ENDINGS}
    assert set(EFFECTS) == {(status, event) for status in SessionStatus for event in legal}
    assert {pair for pair, what in EFFECTS.items() if what is Effect.END} == {
        (SessionStatus.ACTIVE, event) for event in ENDINGS
    }


def test_a_completed_session_carries_the_time_to_its_reply() -> None:
    events = SessionEvents()
    start = opened(events.sent())
    session = apply(start, events.succeeded(at=start.started_at + timedelta(milliseconds=1500), attempt=3))
    assert (session.response_ms, session.attempts, session.error_message) == (1500, 3, None)


def test_a_reply_before_the_session_began_took_no_time() -> None:
    events = SessionEvents()
    start = opened(events.sent())
    assert apply(start, events.succeeded(at=start.started_at - timedelta(seconds=3))).response_ms == 0


def test_a_failed_session_says_why() -> None:
    events = SessionEvents()
    session = apply(opened(events.sent()), events.failed(FailureKind.TIMEOUT))
    assert (session.failure_kind, session.error_message, session.response_ms) == (
        FailureKind.TIMEOUT,
        "It broke.",
        None,
    )


@pytest.mark.parametrize(
    ("hours", "told"),
    [(24.0, "24 hours"), (1.0, "1 hour"), (0.5, "30 minutes"), (1 / 60, "1 minute"), (0.0001, "0.36 seconds")],
)
def test_a_swept_session_ends_when_the_sweep_was_due(hours: float, told: str) -> None:
    events, due = SessionEvents(), sweep(max_age_hours=hours)
    session = apply(opened(events.sent()), due)
    assert (session.ended_at, session.error_message) == (due.as_of, f"No activity for {told}.")


def folded(events: list) -> tuple[Session, list]:
    """Apply events the way a batch would, without sorting: the order under test is the order of application."""
    session, late = opened(events[0]), []
    for event in events:
        after = apply(session, event)
        if after is None:
            late.append(event)
        else:
            session = after
    return session, late


def history(terminals: tuple[str, ...], attempts: int) -> list:
    events = SessionEvents()
    sent = events.sent(template_id="t1", template_version=2, resumed_from=SessionEvents().session_id)
    tried = [
        events.attempted(
            n + 1,
            outcome=AttemptOutcome.ACCEPTED,
            deadline_at=sent.occurred_at + timedelta(minutes=n),
            failure_kind=None,
        )
        for n in range(attempts)
    ]
    return [sent, *tried, *(getattr(events, name)() for name in terminals)]


@given(st.sampled_from(TERMINALS), st.integers(0, 3), st.randoms(use_true_random=False))
def test_any_order_with_one_ending_gives_the_same_session(terminal: str, attempts: int, random) -> None:
    events = history((terminal,), attempts)
    expected, _ = folded(events)
    shuffled = random.sample(events, len(events))
    session, late = folded(shuffled)
    assert (session, late) == (expected, [])


@pytest.mark.parametrize("terminals", list(permutations(TERMINALS)))
def test_of_several_endings_exactly_one_wins(terminals: tuple[str, ...]) -> None:
    for order in permutations(history(terminals, 1)):
        session, late = folded(list(order))
        winner = next(event for event in order if type(event) in ENDINGS)
        assert session.status is ENDINGS[type(winner)]
        assert session.ended_at == winner.occurred_at
        assert len(late) == 2
        assert session.version == len(order) - 2
