"""The stub's ledger is bounded."""

from services.local.n8n_stub import Ledger


def test_the_oldest_session_is_forgotten_and_the_totals_stay() -> None:
    ledger = Ledger(max_sessions=2)
    for session in ("a", "b", "b", "c"):
        ledger.note(session, "conversation", "echo", "")
    assert ledger.of_session("a") is None
    assert [calls.session_id for calls in ledger.of_conversation("conversation")] == ["b", "c"]
    assert ledger.summary() == {"calls": 4, "repeatedCalls": 1, "sessions": 2, "personas": {"echo": 4}}
