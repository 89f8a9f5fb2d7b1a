"""Entity tags of sessions: what changes them, and what they are compared with."""

import pytest

from services.api_gateway.problems import Problem
from services.api_gateway.versions import entity_tag, is_current, is_known

SESSION = {"version": 3, "status": "ACTIVE", "timeline": [{"type": "MessageSent"}], "durationMs": 12}


def test_a_tag_changes_with_all_that_is_told_but_the_time_that_passes() -> None:
    tag = entity_tag(SESSION)
    assert tag == entity_tag({**SESSION, "durationMs": 13})
    others = [{"version": 4}, {"timeline": [*SESSION["timeline"], {"type": "WebhookFailed", "late": True}]}]  # type: ignore[misc]
    assert len({tag, *(entity_tag({**SESSION, **other}) for other in others)}) == 3


@pytest.mark.parametrize("header", ["{tag}", "W/{tag}", '"x", {tag}', '"x",W/"y" ,\t{tag}', "*", " {tag} "])
def test_what_a_client_has_is_known(header: str) -> None:
    tag = entity_tag(SESSION)
    assert is_known(header.format(tag=tag), tag)


@pytest.mark.parametrize("header", [None, '"3"', '"*"', '""', 'W/"3-0"'])
def test_what_it_has_not_is_not(header: str | None) -> None:
    assert not is_known(header, entity_tag(SESSION))


@pytest.mark.parametrize(
    ("header", "current"),
    [
        *((header, True) for header in (None, "*", '"3"', '"3-aa"', 'W/"3-aa"', '"1-a", "3-b"')),
        *((header, False) for header in ('"4"', '"2-3"', '"*"', '""', '"33"')),
    ],
)
def test_a_version_is_the_part_of_a_tag_that_must_be_current(header: str | None, current: bool) -> None:
    assert is_current(header, 3) is current


@pytest.mark.parametrize(
    "header", ["", "3", '"3', "3-a", '"a" "b"', '"a",', "*,*", 'w/"3"', '"\x7f"', '"' + "x" * 1024 + '"']
)
def test_what_is_no_list_of_tags_matches_nothing(header: str) -> None:
    assert not is_known(header, '"3-a"')
    with pytest.raises(Problem) as refused:
        is_current(header, 3)
    assert (refused.value.status, refused.value.members["errors"][0]["field"]) == (400, "If-Match")
