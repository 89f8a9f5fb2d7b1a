"""What `up` asks of its services over HTTP: whether they are ready, and to take the stub's personas."""

from collections.abc import Callable, Iterable

import httpx

from services.local.supervisor import Program


class NotReadyError(Exception):
    """The system did not become ready; the message says what is missing."""


class PersonaRefusedError(Exception):
    """The gateway did not take a persona; the message repeats its answer."""


def what_is_not_ready(client: httpx.Client, programs: Iterable[Program]) -> dict[str, str]:
    """The names of the programs that are not ready, each with what it says is missing."""
    problems = {program.name: _problem(client, program) for program in programs}
    return {name: problem for name, problem in problems.items() if problem is not None}


def register_personas(
    gateway_url: str, n8n_url: str, personas: Iterable[str], admin_token: Callable[[str], str]
) -> None:
    """Give the gateway every persona, with its webhook at `n8n_url`; PersonaRefusedError where it says no.

    `admin_token` signs a token for a user id.
    """
    with httpx.Client(base_url=gateway_url, timeout=10, trust_env=False) as client:
        for persona in personas:
            # A user each: the lowest rate limit does not hold the start up.
            answer = client.put(
                f"/api/personas/{persona}",
                json={"webhookUrl": f"{n8n_url}/webhook/{persona}"},
                headers={"authorization": f"Bearer {admin_token(f'up-{persona}')}"},
            )
            if answer.is_error:
                raise PersonaRefusedError(
                    f"The gateway refused the persona {persona} ({answer.status_code}): {answer.text[:500]}"
                )


def _problem(client: httpx.Client, program: Program) -> str | None:
    try:
        answer = client.get(f"{program.ops_url}/health/ready")
    except httpx.HTTPError as error:
        return type(error).__name__
    return None if answer.status_code == 200 else answer.text[:500]
