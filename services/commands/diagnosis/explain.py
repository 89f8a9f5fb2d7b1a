"""What happened to a session and what to do, in one sentence, from everything that is known of it. Pure."""

from services.commands.diagnosis.active import explain_active
from services.commands.diagnosis.ended import explain_ended
from services.commands.diagnosis.facts import Facts
from services.commands.diagnosis.untracked import explain_untracked
from services.commands.diagnosis.words import Verdict


def explain(facts: Facts) -> Verdict:
    """Return what happened to the session, and what to do."""
    if facts.tracked is None:
        return explain_untracked(facts)
    if facts.tracked.status.ended:
        return explain_ended(facts, facts.tracked)
    return explain_active(facts, facts.tracked)
