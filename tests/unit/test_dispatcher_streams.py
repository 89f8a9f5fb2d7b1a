"""Streaming answers, taken in pieces of any size."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import FailureKind
from services.contracts.admission import MAX_REPLY_BYTES
from services.contracts.replies import NoReply, Reply, read_reply
from services.webhook_dispatcher.bodies import MAX_BODY_BYTES, IncomingBody

BEGIN, END = {"type": "begin"}, {"type": "end"}


def item(content: object) -> dict[str, object]:
    return {"type": "item", "content": content, "metadata": {"nodeId": "1", "nodeName": "AI Agent"}}


def lines(*chunks: dict[str, Any]) -> bytes:
    # As JSON.stringify writes them: nothing escaped but what must be, and lone halves of characters.
    return b"".join(
        json.dumps(chunk, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" for chunk in chunks
    )


def read(*pieces: bytes) -> tuple[Reply | NoReply, list[str]]:
    """What a body in these pieces amounts to, and what was heard on the way."""
    body = IncomingBody(may_stream=True)
    heard = [text for piece in pieces if (text := body.feed(piece))]
    heard += [text] if (text := body.close()) else []
    return read_reply(bytes(body.raw), "application/json", stream=body.stream), heard


@given(
    words=st.lists(st.text(max_size=5), min_size=1, max_size=8).filter(lambda w: bool("".join(w).strip())),
    data=st.data(),
)
def test_a_stream_is_the_same_however_it_is_cut(words: list[str], data: st.DataObject) -> None:
    body = lines(BEGIN, *map(item, words), END)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    reply, heard = read(*pieces)
    assert reply == Reply("".join(words).replace("\0", "\ufffd"))
    assert "".join(heard) == reply.text


def test_what_was_said_is_heard_before_the_end() -> None:
    body = IncomingBody(may_stream=True)
    assert [body.feed(lines(BEGIN)), body.feed(lines(item("Hel"))), body.feed(lines(item("lo"), END))] == [
        "",
        "Hel",
        "lo",
    ]


def test_a_character_in_two_items_is_one() -> None:
    reply, heard = read(lines(BEGIN, item("a\ud83d")), lines(item("\ude00b")), lines(END))
    assert reply == Reply("a\U0001f600b")
    assert heard == ["a", "\U0001f600b"]


def test_half_a_character_is_shown_as_such() -> None:
    reply, heard = read(lines(BEGIN, item("a\ud83d"), END))
    assert reply == Reply("a\ufffd")
    assert "".join(heard) == "a\ufffd"


def test_separators_that_only_python_sees_as_line_ends_are_text() -> None:
    assert read(lines(BEGIN, item("a\u2028b\x85c"), END))[0] == Reply("a\u2028b\x85c")


def test_a_long_reply_in_small_items_is_no_large_answer() -> None:
    words = [item("word ")] * 20_000
    body = lines(BEGIN, *words, END)
    assert len(body) > 3 * MAX_BODY_BYTES
    reply, _ = read(*(body[at : at + 65_536] for at in range(0, len(body), 65_536)))
    assert reply == Reply("word " * 20_000)


def test_nodes_stream_one_after_the_other_or_within_each_other() -> None:
    assert read(lines(BEGIN, item("a"), END, BEGIN, item("b"), END))[0] == Reply("ab")
    assert read(lines(BEGIN, BEGIN, item("a"), END, item("b"), END))[0] == Reply("ab")
    assert read(lines(BEGIN, {"type": "tool-call", "name": "x"}, item("a"), END))[0] == Reply("a")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (lines(BEGIN, item("a")), FailureKind.BAD_REPLY),
        (lines(BEGIN, BEGIN, item("a"), END), FailureKind.BAD_REPLY),
        (lines(BEGIN, item("a"), END, BEGIN), FailureKind.BAD_REPLY),
        (lines(BEGIN, item("a"), END) + b'{"type":"be', FailureKind.BAD_REPLY),
        (lines(BEGIN, item("a")) + b"<html>\n" + lines(END), FailureKind.BAD_REPLY),
        (lines(BEGIN, item("a")) + b"[1]\n" + lines(END), FailureKind.BAD_REPLY),
        (lines(BEGIN, item(" "), END), FailureKind.NO_REPLY),
        (lines(BEGIN, item("a"), {"type": "error", "content": "boom"}, END), FailureKind.WORKFLOW_ERROR),
        (lines(BEGIN, *[item("x" * 1000)] * (MAX_REPLY_BYTES // 1000 + 1), END), FailureKind.TOO_LARGE),
    ],
)
def test_a_stream_without_a_reply(body: bytes, kind: FailureKind) -> None:
    told, _ = read(body[:40], body[40:])
    assert isinstance(told, NoReply)
    assert told.kind is kind


@pytest.mark.parametrize("body", [b'{\n"reply": "hi"}', b'{"type": "item",\n"reply": "hi"}', b'\n\n{"reply":\n"hi"}'])
def test_other_answers_of_several_lines_are_no_streams(body: bytes) -> None:
    assert read(body) == (Reply("hi"), [])


def test_line_feeds_one_by_one_are_not_looked_at_again_and_again() -> None:
    body = IncomingBody(may_stream=True)
    began = time.process_time()
    for _ in range(MAX_BODY_BYTES):
        assert body.feed(b"\n") == ""
    # Looking at all of it each time takes more than half a minute.
    assert time.process_time() - began < 10
    assert not body.over
    assert body.feed(lines(BEGIN)) == ""
    assert body.stream is not None


def test_an_answer_that_failed_is_no_stream() -> None:
    body = IncomingBody(may_stream=False)
    assert body.feed(lines(BEGIN, item("a"))) == ""
    assert body.stream is None
