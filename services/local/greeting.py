"""What `chat-sessions up` says once everything runs. Pure text."""

from collections.abc import Iterable, Iterator
from pathlib import Path


def greeting(
    gateway_url: str,
    kafka: str,
    user_token: str,
    admin_token: str,
    stub_personas: Iterable[str],
    data_directory: Path,
    database_directory: Path | None,
    command: str,
    seconds: float,
) -> Iterator[str]:
    """Paragraphs for a person: where the system is, how to speak to it, and how to stop it.

    `command` sends a message; `seconds` is how long the start took; `stub_personas` is empty where
    n8n is a real one, `database_directory` None where PostgreSQL runs elsewhere.
    """
    yield f"\nReady after {seconds:.1f} s: {gateway_url} (its API is described at {gateway_url}/docs)"
    yield f"Kafka: {kafka}"
    yield f"\nUser token:\n{user_token}\n\nAdmin token:\n{admin_token}"
    yield f"\nTry:\n{command}"
    yield "or, with the user token in TOKEN:"
    yield (
        f"curl -X POST '{gateway_url}/api/conversations/hello/messages?wait=10' "
        """-H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' """
        """-d '{"personaId": "echo", "message": "Hello"}'"""
    )
    if names := ", ".join(stub_personas):
        yield f"\nPersonas of the stub n8n: {names}"
    yield f"\n{_what_lies_where(data_directory, database_directory)}"


def _what_lies_where(data: Path, database: Path | None) -> str:
    if database is None:
        return f"What is kept here is in {data}, the database elsewhere. Ctrl-C stops everything."
    if database.is_relative_to(data):
        return f"Data and logs are in {data}. Ctrl-C stops everything; to begin anew, delete that directory afterwards."
    return (
        f"Data and logs are in {data}, the database is in {database}. "
        "Ctrl-C stops everything; to begin anew, delete both directories afterwards."
    )
