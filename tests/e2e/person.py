"""Someone who uses the API of the running system, over HTTP alone."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx

Json = dict[str, Any]


class Person:
    """Someone who uses the API."""

    def __init__(self, user_id: str, client: httpx.Client) -> None:
        self.user_id = user_id
        self.http = client

    def send(self, persona: str, message: str = "Hello", *, conversation: str | None = None, wait: int = 0) -> Json:
        """Send a message; return the answer, which must be one of success."""
        url = f"/api/conversations/{conversation or uuid4()}/messages"
        answer = self.http.post(url, params={"wait": wait}, json={"personaId": persona, "message": message})
        assert answer.status_code in {200, 202}, answer.text
        return answer.json()

    def session(self, session_id: str, *, wait: int = 0) -> Json:
        answer = self.http.get(f"/api/chat-sessions/{session_id}", params={"wait": wait})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ended(self, session_id: str) -> Json:
        session = self.session(session_id, wait=30)
        assert session["status"] != "ACTIVE", session
        return session

    def stats(self, **parameters: str) -> Json:
        answer = self.http.get("/api/chat-sessions/stats", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, path: str) -> Iterator[tuple[str, Json]]:
        """The events of a stream, as they come."""
        with self.http.stream("GET", path) as answer:
            assert answer.status_code == 200, answer.read()
            name = ""
            for line in answer.iter_lines():
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data":
                    yield name, json.loads(value)
