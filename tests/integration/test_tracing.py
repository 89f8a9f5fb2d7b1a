"""One message's trace from its POST to its fold, as a collector gets it."""

from collections.abc import Mapping

import pytest

from services.contracts.ids import new_id
from tests.collector import Collector, Step, collector, tree
from tests.integration.dispatching import dispatcher
from tests.integration.gateway import ADA, ROOT, ready, running_gateway
from tests.integration.tracker_process import tracker
from tests.integration.webhook_server import Call, echo, http, webhook_server

pytestmark = pytest.mark.any_broker

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NOT_SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
GIVEN = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
SECRET = "what-nobody-may-read"


@pytest.mark.timeout(120)
async def test_a_trace_leads_from_the_post_to_the_fold(bootstrap: str, postgres_url: str) -> None:
    heard: list[Mapping[str, str]] = []

    async def answer(call: Call) -> bytes:
        heard.append(call.headers)
        # The first call provably starts nothing, so that there is another.
        return http(b"busy", 503) if len(heard) == 1 else await echo(call)

    with collector() as traces:
        exported = {"otel_exporter_otlp_endpoint": traces.url}
        async with (
            webhook_server(answer) as webhook,
            running_gateway(
                bootstrap, postgres_url, topics=False, egress_allow_cidrs="127.0.0.0/8", **exported
            ) as gateway,
            tracker(bootstrap, postgres_url, **exported) as tracking,
            dispatcher(bootstrap, postgres_url, **exported),
        ):
            await ready(gateway)
            await tracking.until_ready()
            persona = {"webhookUrl": f"{webhook.url('p')}?key={SECRET}", "timeoutSeconds": 20}
            assert (await gateway.http.put("/api/personas/p", headers=ROOT, json=persona)).status_code == 200
            path = f"/api/conversations/{new_id()}/messages?wait=20"
            body = {"personaId": "p", "message": SECRET}
            sent = await gateway.http.post(path, headers={**ADA, **GIVEN}, json=body)
            assert sent.status_code == 200, sent.text
            session = sent.json()
            other = (await gateway.http.post(path, headers=ADA, json=body)).json()
            unsampled = (await gateway.http.post(path, headers={**ADA, **NOT_SAMPLED}, json=body)).json()
            detail = (await gateway.get(f"/api/chat-sessions/{session['sessionId']}")).json()
            listed = (await gateway.get("/api/chat-sessions")).json()["items"]
            problem = await gateway.http.get("/api/chat-sessions/no-id", headers={**ADA, **GIVEN})

    print(tree(traces.steps, TRACE))
    assert [session["traceId"], detail["traceId"], problem.json()["traceId"]] == [TRACE] * 3
    assert {one["sessionId"]: one["traceId"] for one in listed}[session["sessionId"]] == TRACE
    assert {TRACE, other["traceId"]} <= {step.trace_id for step in traces.steps}
    assert unsampled["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert unsampled["traceId"] not in repr(traces.steps)
    assert other["traceId"] != TRACE
    _leads_to_the_fold(traces, session["sessionId"], heard)
    told = repr(traces.steps)
    assert SECRET not in told
    assert "ada" not in {value for step in traces.steps for value in step.attributes.values()}


def _leads_to_the_fold(traces: Collector, session_id: str, heard: list[Mapping[str, str]]) -> None:
    own = {step.span_id: step for step in traces.steps if step.trace_id == TRACE}

    def one(name: str, parent: str, **attributes: str | int) -> Step:
        (found,) = [
            step
            for step in own.values()
            if step.name == name and step.parent_id == parent and attributes.items() <= step.attributes.items()
        ]
        return found

    post = one("POST /api/conversations/{conversationId}/messages", CALLER)
    assert (post.kind, post.attributes["http.response.status_code"]) == ("SERVER", 200)
    sent = one("send chat.messages.v1", post.span_id)
    assert (sent.service, sent.kind) == ("chat-sessions-gateway", "PRODUCER")
    delivery = one("deliver chat.messages.v1", sent.span_id)
    assert (delivery.kind, delivery.attributes["chat.session.id"]) == ("CONSUMER", session_id)
    first, second = (one("POST", delivery.span_id, **{"chat.attempt": attempt}) for attempt in (1, 2))
    assert (first.attributes["http.response.status_code"], first.attributes["error.type"]) == (503, "http-5xx")
    assert (second.failed, second.attributes["http.request.resend_count"]) == (False, 1)
    assert [call["traceparent"].split("-")[2] for call in heard[:2]] == [first.span_id, second.span_id]
    results = [
        step for step in own.values() if (step.name, step.parent_id) == ("send chat.results.v1", delivery.span_id)
    ]
    assert len(results) == 2
    for record in (sent, *results):
        (fold,) = [step for step in traces.steps if (TRACE, record.span_id) in step.links]
        assert (fold.name, fold.service, fold.parent_id) == ("fold", "chat-sessions-tracker", "")
        inner = [step.name for step in traces.steps if step.parent_id == fold.span_id]
        assert sorted(inner) == ["BATCH chat_sessions", "send chat.sessions.v1"]
