"""What the OpenAPI document shows as answers: one session, persona, sweep and set of statistics, told throughout."""

ID = "01976f3e-8a00-7cc3-98c4-dc0c0c07398f"
WHEN = "2026-11-22T12:00:00Z"
FILTER = 'status:(FAILED OR TIMEOUT) persona:support responseMs:>2000 -metadata.env:dev "not found"'
SESSION = {
    "id": ID, "conversationId": "c-42", "personaId": "support", "userId": "ada", "sessionId": ID,
    "status": "COMPLETED", "startedAt": WHEN, "endedAt": "2026-11-22T12:00:01.250Z",
    "lastActivityAt": "2026-11-22T12:00:01.250Z", "metadata": {"userAgent": "curl/8.5.0", "ipAddress": "192.0.2.7"},
    "errorMessage": None, "failureKind": None, "attempts": 1, "responseMs": 1250, "version": 2, "resumedFrom": None,
    "templateId": None, "deadlineAt": None, "templateVersion": None,
    "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
}  # fmt: skip
RETRIED = {**SESSION, "resumedFrom": "01976f3d-9fa0-7b1e-8f4c-5a3d1e6b7c80"}
TESTED = {**SESSION, "conversationId": f"persona-test-{ID}", "userId": "root", "metadata": {"test": True}}
ACCEPTED = {
    "sessionId": ID, "conversationId": "c-42", "personaId": "support", "status": "ACTIVE", "startedAt": WHEN,
}  # fmt: skip
HISTORY = [{"type": "MessageSent", "at": WHEN, "late": False}]
SESSIONS = {"items": [SESSION], "nextCursor": None, "total": 1, "totalCapped": False, "limit": 50, "offset": 0}
SESSIONS_AS_CSV = "id,conversationId,personaId,…\r\n" + f"{ID},c-42,support,…\r\n"
ACTIVE_SESSIONS = {**SESSIONS, "items": [{**SESSION, "status": "ACTIVE", "endedAt": None, "responseMs": None}]}
ALREADY_ENDED = {
    "type": "about:blank", "title": "Conflict", "status": 409, "code": "already-ended",
    "detail": "The session had already ended as COMPLETED; nothing was cancelled.",
    "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "session": SESSION,
}  # fmt: skip
CANCELLED = {**SESSION, "status": "CANCELLED", "responseMs": None}
COUNTS = {
    "total": 120, "active": 3,
    "byStatus": {"ACTIVE": 3, "COMPLETED": 108, "FAILED": 6, "TIMEOUT": 1, "CANCELLED": 2}, "successRate": 0.9,
    "responseMs": {"average": 1310.5, "p50": 1190.2, "p95": 2480.7, "p99": 4120.3},
    "failures": {"http-5xx": 4, "timeout": 2},
}  # fmt: skip
STATISTICS = {
    **COUNTS,
    "groups": [{"key": "support", **COUNTS}],
    "series": [{"from": "2026-11-22T00:00:00Z", **COUNTS}],
}
PERSONA = {
    "personaId": "support", "webhookUrl": "https://n8n.example.com/webhook/support", "timeoutSeconds": 10,
    "maxAttempts": 3, "deadlineSeconds": 60, "firstByteSeconds": None, "idleSeconds": 30, "idempotent": False,
    "callbackSeconds": None, "sessionTimeoutHours": None, "paused": False, "hasAuth": True, "hasSigningKeys": True,
    "n8nApiUrl": None, "hasN8nApiKey": False, "createdAt": WHEN, "updatedAt": WHEN,
}  # fmt: skip
TEMPLATE = {
    "templateId": "vip-support", "version": 3, "personaId": "support",
    "callPolicy": {"timeoutSeconds": 30, "maxAttempts": 1}, "metadata": {"channel": "web"}, "tags": ["vip"],
    "createdBy": "root", "createdAt": WHEN,
}  # fmt: skip
AUDIT_ENTRY = {
    "id": ID, "at": WHEN, "actorKind": "admin", "actor": "root", "action": "persona.put", "target": "support",
    "outcome": "done", "address": "192.0.2.7", "details": {"host": "n8n.example.com"},
}  # fmt: skip
ERASURE = {
    "erasureId": ID, "user": "user:9f86d081884c7d659a2feaa0c55ad015", "requestedBy": "root", "before": WHEN,
    "state": "finished", "createdAt": WHEN, "finishedAt": "2026-11-22T12:00:03Z", "conversations": 3, "sessions": 12,
    "messages": 23, "events": 25, "remains": [{"topic": "chat.messages.v1", "until": "2026-12-06T12:00:03Z"}],
}  # fmt: skip
USER_DATA = {"kind": "message", "sessionId": ID, "role": "user", "content": "hello", "createdAt": WHEN}
JOB = {
    "jobId": ID, "requestedBy": "root", "action": "retry", "filter": "status:FAILED failure:timeout persona:support",
    "reason": None, "dryRun": False, "perSecond": 10, "state": "running", "error": None, "done": 40, "skipped": 2,
    "createdAt": WHEN, "finishedAt": None,
}  # fmt: skip
JOB_ITEM = {
    "sessionId": RETRIED["resumedFrom"], "outcome": "done", "code": None, "newSessionId": ID, "status": "COMPLETED",
}  # fmt: skip
SWEEP = {
    "sweepId": ID, "requestedBy": "root", "asOf": WHEN, "maxAgeHours": 24, "dryRun": False, "timedOut": 17,
    "failedChunks": 0, "finishedAt": WHEN,
}  # fmt: skip
LIVE_LIST = f"""retry: 1874
id: AXhQrAJjKQdYggE
event: position
data: {{}}

id: AXhQrQJjKQdYggE
event: session
data: {{"id":"{ID}","conversationId":"c-42","status":"ACTIVE",…}}

id: AXlQrQJjKQdYggE
event: left
data: {{"sessionId":"{ID}","version":2,"status":"COMPLETED"}}

"""
LIVE_SESSION = f"""retry: 2310
id: AgEA
event: session
data: {{"id":"{ID}","conversationId":"c-42","status":"ACTIVE",…}}

id: AgGPBA
event: delta
data: {{"attempt":1,"index":0,"text":"You said: "}}

id: AgKPBA
event: session
data: {{"id":"{ID}","conversationId":"c-42","status":"COMPLETED",…,"reply":"You said: hello"}}

"""
