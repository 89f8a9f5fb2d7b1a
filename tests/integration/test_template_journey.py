"""One message of a template on its whole way: gateway, dispatcher, tracker, and again as a retry."""

from typing import Any

import pytest

from services.contracts.ids import new_id
from tests.integration.dispatching import dispatcher
from tests.integration.gateway import ADA, ROOT, Gateway, ready, running_gateway
from tests.integration.tracker_process import tracker
from tests.integration.webhook_server import Call, echo, never, webhook_server

pytestmark = pytest.mark.any_broker


async def put(gateway: Gateway, path: str, **body: object) -> dict[str, Any]:
    answer = await gateway.http.put(f"/api/{path}", headers=ROOT, json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def post(gateway: Gateway, path: str, **body: object) -> dict[str, Any]:
    answer = await gateway.http.post(f"/api/{path}?wait=20", headers=ADA, json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.timeout(120)
async def test_a_template_from_the_post_to_the_session_and_its_retry(bootstrap: str, postgres_url: str) -> None:
    conversation = f"conversations/{new_id()}/messages"

    async def answer(call: Call) -> bytes:
        return await (never if call.body["message"] == "hang" else echo)(call)

    async with (
        webhook_server(answer) as webhook,
        running_gateway(bootstrap, postgres_url, topics=False, egress_allow_cidrs="127.0.0.0/8") as gateway,
        tracker(bootstrap, postgres_url) as tracking,
        dispatcher(bootstrap, postgres_url),
    ):
        await ready(gateway)
        await tracking.until_ready()
        await put(gateway, "personas/p", webhookUrl=webhook.url("p"), timeoutSeconds=60, maxAttempts=1)
        hasty = {"personaId": "p", "callPolicy": {"timeoutSeconds": 0.3}, "metadata": {"k": 1}, "tags": ["fast"]}
        await put(gateway, "templates/t", **hasty)

        failed = await post(gateway, conversation, templateId="t", message="hang")
        assert (failed["status"], failed["failureKind"], failed["personaId"]) == ("FAILED", "timeout", "p")
        assert (failed["templateId"], failed["templateVersion"]) == ("t", 1)
        assert (failed["metadata"]["k"], failed["metadata"]["tags"]) == (1, ["fast"])

        # The next version is patient, and the retry of the first one is not.
        await put(gateway, "templates/t", personaId="p")
        again = await post(gateway, f"chat-sessions/{failed['sessionId']}/retry")
        assert (again["status"], again["failureKind"], again["templateVersion"]) == ("FAILED", "timeout", 1)
        assert (again["resumedFrom"], again["metadata"]["tags"]) == (failed["sessionId"], ["fast"])
        completed = await post(gateway, conversation, templateId="t", message="hello")
        assert (completed["status"], completed["templateVersion"], completed["reply"]) == (
            "COMPLETED",
            2,
            "You said: hello",
        )

        found = (await gateway.get("/api/chat-sessions", q="tag:fast templateVersion:1")).json()["items"]
        assert {one["sessionId"] for one in found} == {failed["sessionId"], again["sessionId"]}
        detail = (await gateway.get(f"/api/chat-sessions/{failed['sessionId']}")).json()
        (sent,) = [one for one in detail["timeline"] if one["type"] == "MessageSent"]
        assert (sent["templateVersion"], sent["callPolicy"]) == (1, {"timeoutSeconds": 0.3})
