"""The words of the audit log."""

import re

from services.database.audit_words import WHAT_ACTIONS_DO, Action, names_of


def test_every_action_is_named_alike_and_told_in_plain_words() -> None:
    assert [name for name in Action if not re.fullmatch(r"[a-z-]+\.[a-z-]+", name)] == []
    assert list(WHAT_ACTIONS_DO) == list(Action)


def test_no_former_name_is_that_of_another_action_now() -> None:
    former = {name for action in Action for name in names_of(action)[1:]}
    assert former.isdisjoint(Action)
