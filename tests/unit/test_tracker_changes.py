"""What is told of a session is all that is known of it."""

from services.contracts.events import SessionChanged
from services.session_tracker.lifecycle import Session


def test_every_field_of_a_session_is_told() -> None:
    assert set(Session._fields) <= SessionChanged.model_fields.keys()
