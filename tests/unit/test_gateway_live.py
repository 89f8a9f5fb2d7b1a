"""Places in Kafka's log, and what is kept of it for clients that come back."""

from uuid import UUID

import pytest

from services.api_gateway.live.positions import (
    MAX_ID_CHARACTERS,
    SessionPosition,
    WrongPosition,
    list_id,
    read_list_id,
    read_session_id,
    session_id,
)
from services.api_gateway.live.recent import Change, Delta, RecentChanges, RecentDeltas
from services.contracts.session import SessionStatus
from services.contracts.topics import PARTITIONS
from tests.unit.events import reply_delta, session_changed


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 300, 2**31, 2**63 - 1])
def test_an_id_says_where_its_stream_is(offset: int) -> None:
    offsets = (*range(PARTITIONS - 1), offset)
    assert read_list_id(list_id(offsets).decode()) == offsets
    position = SessionPosition(3, offset)
    assert read_session_id(session_id(position).decode()) == position
    assert len(list_id((offset,) * PARTITIONS)) <= MAX_ID_CHARACTERS


def test_ids_are_short() -> None:
    assert len(list_id((1_000_000,) * PARTITIONS)) <= 34


@pytest.mark.parametrize(
    "text",
    [
        "", "A", "AQ", "nonsense!", "ü", "AgEA", "AQAAAAAAAAAAAA", "AQAAAAAAAAAAA=",
        list_id((1,) * PARTITIONS).decode() + "A", list_id((1,) * 7).decode(), list_id((1,) * 9).decode(),
        list_id((2**63,) * PARTITIONS).decode(), "/" * 100, "_" * 129,
    ],
)  # fmt: skip
def test_any_other_text_is_no_id_of_a_list(text: str) -> None:
    with pytest.raises(WrongPosition):
        read_list_id(text)


def changes(recent: RecentChanges, *places: tuple[int, int], size: int = 10) -> list[Change]:
    made = [Change(partition, offset, 0.0, f"{partition}/{offset}", b"x" * size) for partition, offset in places]
    assert all(recent.add(change) for change in made)
    return made


def test_what_came_after_a_place_is_told_in_order() -> None:
    recent = RecentChanges()
    recent.begin([5, 0])
    a, b, c, d = changes(recent, (0, 5), (1, 0), (0, 6), (1, 1))
    assert recent.ends == (7, 2)
    assert recent.since((5, 0)) == [a, b, c, d]
    assert recent.since((6, 0)) == [b, c, d]
    assert recent.since((5, 2)) == [a, c]
    assert recent.since((7, 2)) == []
    assert recent.since((4, 0)) is None


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 1_000), (1_000, 35)])
def test_the_oldest_makes_room_and_is_known_to_be_gone(most: int, most_bytes: int) -> None:
    recent = RecentChanges(most, most_bytes)
    recent.begin([0, 0])
    _, _, *kept = changes(recent, (0, 0), (1, 0), (0, 1), (0, 2), (1, 1))
    assert recent.since((0, 1)) is None
    assert recent.since((1, 0)) is None
    assert recent.since((1, 1)) == kept


def test_a_gap_is_seen_and_a_new_beginning_forgets_what_was() -> None:
    recent = RecentChanges()
    recent.begin([0, 0])
    changes(recent, (0, 0))
    for offset in (0, 2):
        assert not recent.add(Change(0, offset, 0.0, "", b""))
    assert recent.ends == (1, 0)
    recent.begin([2, 0])
    [after] = changes(recent, (0, 2))
    assert recent.since((1, 0)) is None
    assert recent.since((2, 0)) == [after]


def test_a_change_tells_its_session() -> None:
    event = session_changed(metadata={"ü": ["\n", None]})
    change = Change(0, 0, 0.0, "", event.model_dump_json(by_alias=True, exclude_none=True).encode())
    told = change.told
    assert told is not None
    assert (told.user_id, told.version, told.status, told.before) == (
        event.user_id, 2, SessionStatus.COMPLETED, SessionStatus.ACTIVE,
    )  # fmt: skip
    assert UUID(told.session_id) == event.session_id
    assert told.frame == b"event: session\ndata: " + told.row + b"\n\n"
    assert told.row.count(b"\n") == 0
    assert told.left.startswith(b'event: left\ndata: {"sessionId":')
    assert change.told is told, "it is read once"
    assert Change(0, 0, 0.0, "", b"{}").told is None


def test_pieces_are_kept_by_session_and_within_bounds() -> None:
    recent = RecentDeltas(most=3, most_bytes=1_000)
    pieces = [Delta(offset, 0.0, key, b"x") for offset, key in enumerate("abaab")]
    for piece in pieces:
        recent.add(piece)
    assert recent.of("a", 0) == [pieces[2], pieces[3]]
    assert recent.of("a", 3) == [pieces[3]]
    assert recent.of("b", 0) == [pieces[4]]
    recent.add(Delta(5, 0.0, "c", b"x" * 999))
    assert (recent.of("a", 0), recent.of("b", 0), len(recent.of("c", 0))) == ([], [pieces[4]], 1)


def test_a_piece_tells_whose_it_is() -> None:
    event = reply_delta(text="a\nb")
    read = Delta(0, 0.0, "", event.model_dump_json(by_alias=True).encode()).read()
    assert read == (event.user_id, b'event: delta\ndata: {"attempt":2,"index":0,"text":"a\\nb"}\n\n')
    assert Delta(0, 0.0, "", b"").read() is None
