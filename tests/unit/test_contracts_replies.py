"""What counts as a reply."""

import json
from collections.abc import Mapping

import pytest

from services.contracts import FailureKind
from services.contracts.admission import MAX_REPLY_BYTES
from services.contracts.replies import NoReply, Reply, read_reply

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"


def stream(*chunks: Mapping[str, object]) -> bytes:
    return b"".join(json.dumps(chunk).encode() + b"\n" for chunk in chunks)


BEGIN, END = {"type": "begin", "metadata": {}}, {"type": "end", "metadata": {}}


def item(content: object) -> dict[str, object]:
    return {"type": "item", "content": content, "metadata": {}}


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b'{"reply": "hi"}', JSON, "hi"),
        (b'{"output": "hi"}', JSON, "hi"),
        (b'{"text": "hi"}', JSON, "hi"),
        (b'{"message": "hi"}', JSON, "hi"),
        (b'{"message": "no", "text": "no", "output": "no", "reply": "hi"}', JSON, "hi"),
        (b'{"reply": null, "output": "hi"}', JSON, "hi"),
        (b'{"reply": 42}', JSON, "42"),
        (b'{"reply": false}', JSON, "false"),
        (b'{"output": {"text": "hi"}}', JSON, "hi"),
        (b'[{"output": "one"}, {"output": "two"}]', JSON, "one\ntwo"),
        (b'["one", "two"]', JSON, "one\ntwo"),
        (b'"hi"', JSON, "hi"),
        (b"42", JSON, "42"),
        (b'{"reply": "hi"}', None, "hi"),
        (b'{"reply": "hi"}', HTML, "hi"),
        (b"hi there", HTML, "hi there"),
        (b"hi there", None, "hi there"),
        (b"42", "text/plain", "42"),
        (b"null", "text/plain", "null"),
        (b"{half", "text/plain", "{half"),
        ("Grüße".encode(), "text/plain", "Grüße"),
        ("Grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1", "Grüße"),
        ("Grüße".encode("latin-1"), "text/plain; charset=zlib_codec", "Gr\ufffd\ufffde"),
        (b"\xef\xbb\xbfhi", "text/plain", "hi"),
        (rb'{"reply": "a\u0000b\ud800c"}', JSON, "a\ufffdb\ufffdc"),
        (stream(BEGIN, item("Hel"), item("lo"), END), JSON, "Hello"),
        (stream(BEGIN, item("a"), END, BEGIN, {"type": "keepalive"}, item("b"), END), JSON, "ab"),
        (stream(BEGIN, item({"x": 1}), END), None, '{"x": 1}'),
        (b'{"type": "item", "reply": "hi"}', JSON, "hi"),
        (json.dumps({"reply": "x" * MAX_REPLY_BYTES}).encode(), JSON, "x" * MAX_REPLY_BYTES),
    ],
)
def test_a_reply(body: bytes, content_type: str | None, text: str) -> None:
    assert read_reply(body, content_type) == Reply(text)


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"", None, FailureKind.NO_REPLY),
        (b" \n", "text/plain", FailureKind.NO_REPLY),
        (b"null", JSON, FailureKind.NO_REPLY),
        (b"{}", JSON, FailureKind.NO_REPLY),
        (b"[]", JSON, FailureKind.NO_REPLY),
        (b'{"reply": " "}', JSON, FailureKind.NO_REPLY),
        (b'""', JSON, FailureKind.NO_REPLY),
        (stream(BEGIN, END), JSON, FailureKind.NO_REPLY),
        (b'{"message":"Workflow was started"}', JSON, FailureKind.ACKNOWLEDGED_ONLY),
        (
            b'{"message":"Workflow executed successfully but the last node did not return any data"}',
            JSON,
            FailureKind.NO_REPLY,
        ),
        (
            b'{"message":"Workflow executed successfully but no data was returned"}',
            JSON,
            FailureKind.NO_REPLY,
        ),
        (b'{"message":"Webhook call received"}', JSON, FailureKind.NO_REPLY),
        (b'{"answer": "hi"}', JSON, FailureKind.BAD_REPLY),
        (b'[{"reply": "hi"}, {"answer": "ho"}]', JSON, FailureKind.BAD_REPLY),
        (b'{"reply": ' + b"[" * 6 + b'"hi"' + b"]" * 6 + b"}", JSON, FailureKind.BAD_REPLY),
        (b"[" * 100_000, JSON, FailureKind.BAD_REPLY),
        (b"[" * 500 + b"]" * 500, JSON, FailureKind.BAD_REPLY),
        (b"{half", JSON, FailureKind.BAD_REPLY),
        (b"{half", "application/problem+json", FailureKind.BAD_REPLY),
        (b"\x89PNG", "image/png", FailureKind.BAD_REPLY),
        (b"%PDF", "application/pdf", FailureKind.BAD_REPLY),
        (stream(BEGIN, item("Hel")), JSON, FailureKind.BAD_REPLY),
        (stream(BEGIN), JSON, FailureKind.BAD_REPLY),
        (stream(BEGIN, item("a"), END, BEGIN, item("b")), JSON, FailureKind.BAD_REPLY),
        (stream(BEGIN, item("Hel")) + b'{"type": "it', JSON, FailureKind.BAD_REPLY),
        (stream(BEGIN, item("Hel"), {"type": "error", "content": "boom"}), JSON, FailureKind.WORKFLOW_ERROR),
        (stream({"type": "error"}), JSON, FailureKind.WORKFLOW_ERROR),
        (json.dumps({"reply": "x" * MAX_REPLY_BYTES + "x"}).encode(), JSON, FailureKind.TOO_LARGE),
        (("\0" * (MAX_REPLY_BYTES // 2)).encode(), "text/plain", FailureKind.TOO_LARGE),
    ],
)
def test_no_reply(body: bytes, content_type: str | None, kind: FailureKind) -> None:
    read = read_reply(body, content_type)
    assert isinstance(read, NoReply)
    assert read.kind is kind
    assert read.explanation.endswith(".")


def test_a_stream_that_failed_says_what_n8n_said() -> None:
    read = read_reply(stream(BEGIN, {"type": "error", "content": "Model not found"}), JSON)
    assert isinstance(read, NoReply)
    assert "Model not found" in read.explanation
