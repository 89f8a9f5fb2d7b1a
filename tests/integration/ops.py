"""What a running process tells about itself."""

import httpx

from tests.patience import PATIENT_SECONDS


async def ask(ops_port: int, path: str) -> httpx.Response:
    """The answer of a process here to GET; raises httpx.TransportError where nothing answers."""
    url = f"http://127.0.0.1:{ops_port}"
    # Never over TLS, whose certificates take far longer to read than this takes.
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
        return await client.get(path, timeout=PATIENT_SECONDS)
