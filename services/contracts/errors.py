"""What can be wrong with a record.

    BadRecord
    ├── UndecodableRecord   it carries no event that this version knows
    └── NotAdmitted         it carries an event that no service may act upon

Both are dead-lettered: trying again would not help.
"""


class BadRecord(Exception):
    """A record that can never be used. `reason` is a stable word, the text a whole sentence for people."""

    def __init__(self, reason: str, explanation: str) -> None:
        super().__init__(explanation)
        self.reason = reason
        self.explanation = explanation


class UndecodableRecord(BadRecord):
    """The record cannot be read as an event."""


class NotAdmitted(BadRecord):
    """The event is well-formed, but breaks a rule that all services hold."""
