"""A user who has everything about him erased while the releases are mixed: older trackers may not know what that is."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

CONVERSATIONS = 16
"""So many that each tracker is asked, whichever partitions it has."""
ERASED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Leaver:
    """`token` is his, `admin_token` that of whoever has him erased."""

    token: str
    admin_token: str

    async def send(self, gateway: str) -> None:
        """Send a message in each of his conversations, and wait until all are answered."""
        async with _client(gateway, self.token) as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        f"/api/conversations/leaver-{number}/messages",
                        params={"wait": 20},
                        json={"personaId": "echo", "message": "Goodbye"},
                    )
                    for number in range(CONVERSATIONS)
                )
            )
            assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]

    async def leave(self, gateway: str) -> str:
        """Ask for his erasure; return where its receipt is."""
        async with _client(gateway, self.admin_token) as client:
            answer = await client.delete("/api/users/leaver/data")
            assert answer.status_code == 202, answer.text
            return answer.headers["location"]

    async def until_left(self, gateway: str, receipt: str) -> dict[str, Any]:
        """Return the receipt once it says that all is erased."""
        async with _client(gateway, self.admin_token) as client, asyncio.timeout(ERASED_SECONDS):
            while True:
                found: dict[str, Any] = (await client.get(receipt)).json()
                if found["state"] == "finished":
                    return found
                await asyncio.sleep(0.2)


def _client(gateway: str, token: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=gateway, headers=headers, timeout=30, trust_env=False)
