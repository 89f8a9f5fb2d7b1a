"""The stub answers what n8n answers, row by row, and remembers who called."""

import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from services.local.n8n_answers import WEBHOOKS, WebhookCall
from services.local.processes import free_port, start_process, wait_for_port
from services.local.reaper import Reaper
from services.local.service_health import why_silent


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[httpx.Client]:
    port = free_port()
    child = start_process(
        "n8n",
        [sys.executable, "-m", "services.local.n8n_stub", "--port", str(port)],
        environment={},
        log_path=tmp_path_factory.mktemp("stub") / "n8n.log",
        reaper=reaper,
    )
    wait_for_port(child, port, 20)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        yield client
    child.stop(5)


def test_up_notices_where_nobody_answers(stub: httpx.Client) -> None:
    assert why_silent(str(stub.base_url)) is None
    assert why_silent("http://127.0.0.1:1") == "ConnectError"


def body(session_id: str = "", conversation_id: str = "c") -> dict[str, str]:
    return {"message": "good day", "sessionId": session_id or str(uuid4()), "conversationId": conversation_id}


@pytest.mark.parametrize(
    ("persona", "status", "text"),
    [
        ("echo", 200, '{"reply":"You said: good day"}'),
        ("immediate", 200, '{"message":"Workflow was started"}'),
        ("last-node-empty", 500, '{"code":0,"message":"No item to return was found"}'),
        ("broken", 500, '{"message":"Error in workflow"}'),
        ("empty", 200, ""),
        ("cannot-start", 500, '{"code":0,"message":"Workflow Webhook Error: Workflow could not be started!"}'),
        ("unauthorized", 401, "Authorization is required!"),
        ("forbidden", 403, "Authorization data is wrong!"),
        ("cloud-timeout", 524, "error code: 524"),
    ],
)
def test_each_row_byte_for_byte(stub: httpx.Client, persona: str, status: int, text: str) -> None:
    answer = stub.post(f"/webhook/{persona}", json=body())
    assert (answer.status_code, answer.text) == (status, text)


def test_unknown_paths_and_methods_are_not_registered(stub: httpx.Client) -> None:
    for answer in (stub.post("/webhook/not-registered", json=body()), stub.post("/webhook/x/y", json=body())):
        path = answer.request.url.path.removeprefix("/webhook/")
        assert answer.status_code == 404
        assert answer.json()["message"] == f'The requested webhook "POST {path}" is not registered.'
    assert stub.get("/webhook/echo").status_code == 404


def test_streaming_comes_word_by_word_as_lines_that_add_up_to_the_reply(stub: httpx.Client) -> None:
    began = time.monotonic()
    with stub.stream("POST", "/webhook/streaming", json=body()) as answer:
        chunks = [httpx.Response(200, text=line).json() for line in answer.iter_lines()]
    assert time.monotonic() - began > 0.6
    assert [chunks[0]["type"], chunks[-1]["type"]] == ["begin", "end"]
    assert "".join(chunk["content"] for chunk in chunks[1:-1]) == "You said: good day"


def test_a_long_stream_ends_in_time() -> None:
    answer = WEBHOOKS["streaming"](WebhookCall("streaming", "s", "word " * 1_000, 1))
    assert answer is not None
    assert answer.pause_seconds * len(answer.body) == pytest.approx(5)


def test_flaky_and_overloaded_answer_by_the_session_s_own_count(stub: httpx.Client) -> None:
    flaky, overloaded = body(), body()
    assert [stub.post("/webhook/flaky", json=flaky).status_code for _ in range(3)] == [500, 500, 200]
    refused = stub.post("/webhook/overloaded", json=overloaded)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert stub.post("/webhook/overloaded", json=overloaded).status_code == 200


def test_hang_never_answers(stub: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        stub.post("/webhook/hang", json=body(), timeout=0.3)


def test_the_ledger_tells_calls_and_their_order(stub: httpx.Client) -> None:
    first, second, conversation = str(uuid4()), str(uuid4()), str(uuid4())
    before = stub.get("/calls/summary").json()
    for session in (second, first, second):
        stub.post("/webhook/echo", json=body(session, conversation), headers={"webhook-id": session})
    calls = stub.get("/calls", params={"sessionId": second}).json()
    assert (calls["calls"], calls["webhookIds"], calls["personaId"]) == (2, [second, second], "echo")
    assert calls["arrivals"][0] < calls["arrivals"][1]
    ordered = stub.get("/calls", params={"conversationId": conversation}).json()
    assert [one["sessionId"] for one in ordered] == [second, first]
    after = stub.get("/calls/summary").json()
    assert (after["calls"] - before["calls"], after["repeatedCalls"] - before["repeatedCalls"]) == (3, 1)
    assert stub.get("/calls", params={"sessionId": "unknown"}).json()["calls"] == 0


def test_a_body_that_is_no_call_is_refused(stub: httpx.Client) -> None:
    assert stub.post("/webhook/echo", content=b"{").status_code == 422
    assert stub.post("/webhook/echo", json=[1]).status_code == 422
