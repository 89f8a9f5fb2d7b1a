"""What users of the running system see, over HTTP alone."""

import itertools
from uuid import uuid4

import httpx
import pytest

from services.contracts.session import FailureKind
from services.local.n8n_answers import CALLBACK_SECONDS, PERSONAS
from tests.e2e.local_stack import until
from tests.e2e.person import Json

REPLYING = {"echo", "slow", "uneven", "flaky", "overloaded", "streaming", "callback"}
FAILING = {
    "broken": FailureKind.WORKFLOW_ERROR,
    "empty": FailureKind.NO_REPLY,
    "immediate": FailureKind.ACKNOWLEDGED_ONLY,
    "last-node-empty": FailureKind.NO_REPLY,
    "cannot-start": FailureKind.WORKFLOW_ERROR,
    "not-registered": FailureKind.NOT_REGISTERED,
    "unauthorized": FailureKind.UNAUTHORIZED,
    "forbidden": FailureKind.UNAUTHORIZED,
    "cloud-timeout": FailureKind.TIMEOUT,
    "hang": FailureKind.TIMEOUT,
    "forgetful": FailureKind.CALLBACK_TIMEOUT,
}


def kinds(session: Json) -> list[str]:
    return [entry["type"] for entry in session["timeline"]]


def calls(stack: Json, session_id: str) -> int:
    """Return how often the stub's webhooks were called for a session."""
    answer = httpx.get(f"{stack['n8nUrl']}/calls", params={"sessionId": session_id}, trust_env=False, verify=False)
    return answer.json()["calls"] if answer.status_code == 200 else 0


@pytest.mark.parametrize("persona", sorted(REPLYING))
def test_a_message_is_answered(person, persona) -> None:
    alice = person()
    sent = alice.send(persona, "How are you?")
    assert sent["status"] == "ACTIVE"
    session = alice.ended(sent["sessionId"])
    assert (session["status"], session["errorMessage"]) == ("COMPLETED", None)
    assert [(m["role"], m["content"]) for m in session["messages"]] == [
        ("user", "How are you?"),
        ("persona", "You said: How are you?"),
    ]
    assert kinds(session)[0] == "MessageSent"
    assert kinds(session)[-1] == "WebhookSucceeded"
    assert session["durationMs"] == session["responseMs"] > 0
    assert session["metadata"]["ipAddress"] == "127.0.0.1"


@pytest.mark.parametrize(("persona", "kind"), sorted(FAILING.items()))
def test_what_n8n_does_wrong_is_told(person, stack, persona, kind) -> None:
    alice, admin = person(), person(admin=True)
    impatient = f"{persona}-{uuid4()}"
    body = {
        "webhookUrl": f"{stack['n8nUrl']}/webhook/{persona}",
        "timeoutSeconds": 1,
        "deadlineSeconds": 10,
        "callbackSeconds": CALLBACK_SECONDS.get(persona),
    }
    assert admin.http.put(f"/api/personas/{impatient}", json=body).is_success
    session = alice.ended(alice.send(impatient)["sessionId"])
    assert (session["status"], session["failureKind"]) == ("FAILED", kind)
    assert session["errorMessage"]
    assert [m["role"] for m in session["messages"]] == ["user"]
    stats = alice.stats()
    assert (stats["total"], stats["byStatus"]["FAILED"], stats["failures"]) == (1, 1, {kind: 1})


def test_a_reply_by_callback_keeps_nobody_waiting_behind_it(person) -> None:
    alice, conversation = person(), str(uuid4())
    slow = alice.send("callback", "Think", conversation=conversation)["sessionId"]
    quick = alice.send("echo", conversation=conversation, wait=20)
    assert quick["status"] == "COMPLETED"
    session = alice.ended(slow)
    assert kinds(session) == ["MessageSent", "WebhookAttempted", "WebhookSucceeded"]
    told = session["timeline"][1]
    assert (told["outcome"], told["deadlineAt"]) == ("accepted", session["deadlineAt"])
    assert session["startedAt"] < quick["endedAt"] < session["endedAt"] < session["deadlineAt"]


def test_every_persona_of_the_stub_is_tried_here() -> None:
    assert set(PERSONAS) == REPLYING | set(FAILING)


def test_an_unknown_persona_fails_the_session(person) -> None:
    alice = person()
    session = alice.ended(alice.send("nobody")["sessionId"])
    assert (session["status"], session["failureKind"]) == ("FAILED", "unknown-persona")


def test_waiting_for_the_reply(person) -> None:
    answer = person().send("echo", "Wait for it", wait=20)
    assert (answer["status"], answer["reply"]) == ("COMPLETED", "You said: Wait for it")


def test_a_reply_is_watched_while_it_is_written(person) -> None:
    alice = person()
    of_list = alice.events("/api/chat-sessions/live?q=persona:streaming")
    assert next(of_list) == ("position", {})
    # It waits behind another message of its conversation, so that it is watched before it begins.
    conversation = str(uuid4())
    alice.send("slow", conversation=conversation)
    session_id = alice.send("streaming", "Tell me", conversation=conversation)["sessionId"]
    told = list(alice.events(f"/api/chat-sessions/{session_id}/live"))
    assert "".join(data["text"] for name, data in told if name == "delta") == "You said: Tell me"
    assert [data["index"] for name, data in told if name == "delta"] == [*range(len(told) - 2)]
    assert (told[0][0], told[0][1]["status"]) == ("session", "ACTIVE")
    name, last = told[-1]
    assert (name, last["status"], last["reply"]) == ("session", "COMPLETED", "You said: Tell me")
    name, listed = next(event for event in of_list if event[1]["status"] == "COMPLETED")
    assert (name, {**listed, "reply": last["reply"]}) == ("session", last)
    of_list.close()


def test_cancelling_stops_a_running_call_and_is_final(person, stack) -> None:
    alice = person()
    session_id = alice.send("hang")["sessionId"]
    until(lambda: calls(stack, session_id), 60, "the call runs")
    answer = alice.http.patch(f"/api/chat-sessions/{session_id}/cancel", json={"reason": "changed my mind"})
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED"), answer.text
    until(lambda: "WebhookAttempted" in kinds(alice.session(session_id)), 60, "the end of the call is told")
    session = alice.session(session_id)
    told = next(entry for entry in session["timeline"] if entry["type"] == "WebhookAttempted")
    assert (session["status"], told["outcome"]) == ("CANCELLED", "cancelled")
    assert alice.http.patch(f"/api/chat-sessions/{session_id}/cancel").status_code == 200


def test_an_ended_session_cannot_be_cancelled(person) -> None:
    alice = person()
    session_id = alice.send("echo", wait=20)["sessionId"]
    answer = alice.http.patch(f"/api/chat-sessions/{session_id}/cancel")
    assert answer.status_code == 409
    assert alice.session(session_id)["status"] == "COMPLETED"


def test_a_late_reply_does_not_flip_a_swept_session(person, stack) -> None:
    alice, admin = person(), person(admin=True)
    session_id = alice.send("slow")["sessionId"]
    until(lambda: calls(stack, session_id), 60, "the call runs")
    sweep = admin.http.post("/api/chat-sessions/cleanup", content='{"maxAgeHours": 0.0000001}')
    assert sweep.status_code in {200, 202}, sweep.text
    session = alice.session(session_id, wait=20)
    assert (session["status"], session["errorMessage"][:14]) == ("TIMEOUT", "No activity fo")
    late = until(lambda: [e for e in alice.session(session_id)["timeline"] if e["late"]], 60, "the late reply")
    assert [entry["type"] for entry in late] == ["WebhookSucceeded"]
    after = alice.session(session_id)
    assert (after["status"], after["endedAt"]) == ("TIMEOUT", session["endedAt"])
    assert [m["role"] for m in after["messages"]] == ["user"]


def test_a_dry_run_sweeps_nothing(person) -> None:
    alice, admin = person(), person(admin=True)
    session_id = alice.send("slow")["sessionId"]
    answer = admin.http.post("/api/chat-sessions/cleanup", content='{"maxAgeHours": 0.0000001, "dryRun": true}')
    assert answer.status_code in {200, 202}, answer.text
    assert alice.ended(session_id)["status"] == "COMPLETED"


def test_one_conversation_is_answered_in_order(person, stack) -> None:
    alice, conversation = person(), str(uuid4())
    sent = [alice.send("echo", f"message {n}", conversation=conversation)["sessionId"] for n in range(20)]
    ended = [alice.ended(session_id) for session_id in sent]
    assert all(a["endedAt"] <= b["endedAt"] for a, b in itertools.pairwise(ended))
    listed = alice.http.get(f"/api/conversations/{conversation}/chat-sessions", params={"status": "COMPLETED"}).json()
    assert {item["sessionId"] for item in listed["items"]} == set(sent)


def test_sessions_are_for_their_own_user(person) -> None:
    alice, bob, admin = person(), person(), person(admin=True)
    conversation = str(uuid4())
    session_id = alice.send("echo", conversation=conversation, wait=20)["sessionId"]
    assert bob.http.get(f"/api/chat-sessions/{session_id}").status_code == 404
    assert bob.http.patch(f"/api/chat-sessions/{session_id}/cancel").status_code == 404
    assert bob.http.get("/api/chat-sessions").json()["items"] == []
    assert bob.stats()["total"] == 0
    foreign = bob.http.post(f"/api/conversations/{conversation}/messages", json={"personaId": "echo", "message": "hi"})
    assert foreign.status_code == 404
    assert bob.http.post("/api/chat-sessions/cleanup").status_code == 403
    assert admin.session(session_id)["status"] == "COMPLETED"


def test_a_user_is_erased_and_goes_on(person) -> None:
    alice, bob, admin = person(), person(), person(admin=True)
    conversation = str(uuid4())
    before = alice.send("echo", "my kangaroo", conversation=conversation, wait=30)
    path = f"/api/users/{alice.user_id}/data"
    assert "my kangaroo" in admin.http.get(path).text
    receipt = admin.http.delete(path).headers["location"]
    until(lambda: admin.http.get(receipt).json()["state"] == "finished", 60, "the erasure is finished")
    assert admin.http.get(receipt).json()["messages"] == 2
    assert alice.http.get(f"/api/chat-sessions/{before['sessionId']}").status_code == 404
    assert [said["content"] for said in admin.session(before["sessionId"])["messages"]] == [None, None]
    assert "my kangaroo" not in admin.http.get(path).text
    assert alice.send("echo", "again", conversation=conversation, wait=30)["status"] == "COMPLETED"
    foreign = bob.http.post(f"/api/conversations/{conversation}/messages", json={"personaId": "echo", "message": "hi"})
    assert foreign.status_code == 404


def test_repeating_a_request_opens_one_session(person, stack) -> None:
    alice, url, headers = person(), f"/api/conversations/{uuid4()}/messages", {"idempotency-key": str(uuid4())}
    body = {"personaId": "echo", "message": "once"}
    answers = [alice.http.post(url, json=body, headers=headers).json()["sessionId"] for _ in range(3)]
    assert len(set(answers)) == 1
    other = alice.http.post(url, json={**body, "message": "twice"}, headers=headers)
    assert other.status_code == 422
    alice.ended(answers[0])
    assert alice.http.get("/api/chat-sessions").json()["total"] == 1
    assert calls(stack, answers[0]) == 1


def test_statistics_add_up(person) -> None:
    alice = person()
    for persona in ("echo", "echo", "broken"):
        alice.ended(alice.send(persona)["sessionId"])
    stats = alice.stats()
    assert (stats["total"], stats["active"], stats["byStatus"]["COMPLETED"]) == (3, 0, 2)
    assert stats["successRate"] == pytest.approx(2 / 3)
    assert stats["responseMs"]["p50"] > 0
    assert alice.stats(personaId="echo")["total"] == 2


def test_metrics_of_every_process_tell_what_happened(person, stack) -> None:
    alice = person()
    alice.ended(alice.send("echo")["sessionId"])
    alice.ended(alice.send("broken")["sessionId"])
    text = "".join(httpx.get(f"{url}/metrics", trust_env=False, verify=False).text for url in stack["opsUrls"].values())
    for line in (
        'chat_sessions_ended_total{persona="echo",status="COMPLETED"}',
        'chat_sessions_ended_total{persona="broken",status="FAILED"}',
        'chat_session_failures_total{kind="workflow-error"',
        "chat_sessions_success_ratio",
        "chat_consumer_lag_records",
    ):
        assert line in text or line.replace('{kind="workflow-error"', '{kind="workflow-error",persona="broken"') in text
