"""`chat-sessions send`: a message to a persona, and its reply."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import typer

from services.commands.target import CommandError, DataDirectoryOption, Target, answer_of, chosen_target, refusal_code
from services.commands.wording import shown
from services.runtime.tokens import user_of

_USER = "alice"


def send(
    message: Annotated[str, typer.Argument(help="What to say.")],
    *,
    persona: Annotated[str, typer.Option(help="To which persona.")] = "echo",
    conversation: Annotated[
        str | None, typer.Option(help="In which conversation.", show_default="command-line-USER")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="As which user.", show_default=f"CHAT_SESSIONS_TOKEN's, or {_USER}")
    ] = None,
    wait: Annotated[int, typer.Option(min=0, max=60, help="Seconds to wait for the reply.")] = 30,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Send a message and show the reply; exit code 1 if there is none."""
    with chosen_target(data_dir) as target:
        sender = _sender(target, user)
        # A conversation is its first user's, so each has one.
        conversation_id = conversation or f"command-line-{sender}"
        with target.client(sender, admin=False, timeout_seconds=wait + 15) as client:
            response = client.post(
                f"/api/conversations/{quote(conversation_id, safe='')}/messages",
                params={"wait": wait} if wait else None,
                json={"personaId": persona, "message": message},
            )
        session = _session(response, conversation_id)
    typer.echo(f"Session {session['sessionId']} is {session['status']}.")
    if session["status"] == "COMPLETED":
        typer.echo(session["reply"])
    elif wait:
        raise CommandError(str(session.get("errorMessage") or _no_reply(session, wait, data_dir)))


def _sender(target: Target, user: str | None) -> str:
    """Whom the message is from: a token that was given stands for one user and no other."""
    token = target.given_token()
    if token is None:
        return user or _USER
    if user is not None:
        raise CommandError("CHAT_SESSIONS_TOKEN says as which user: unset it, or leave out --user.")
    named = user_of(token)
    if named is None:
        raise CommandError("CHAT_SESSIONS_TOKEN is no JSON Web Token that names its user (`sub`): correct it.")
    return named


def _no_reply(session: Mapping[str, object], wait: int, data_dir: Path | None) -> str:
    there = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    doctor = f"chat-sessions doctor {session['sessionId']}{there}"
    return f"No reply within {wait} s; the session goes on. See `{doctor}`."


def _session(response: httpx.Response, conversation_id: str) -> dict[str, object]:
    if refusal_code(response) == "no-such-conversation":
        raise CommandError(
            f"The gateway answered 404: you have no conversation {shown(conversation_id, 128)}, "
            "it belongs to another user: give --conversation."
        )
    session = answer_of(response)
    if not isinstance(session, dict):
        raise CommandError("The gateway's answer is no session: check the address.")
    return session
