"""`chat-sessions persona`: the personas that messages can be sent to."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import orjson
import typer

from services.commands.target import CommandError, DataDirectoryOption, answer_of, chosen_target, refusal_code
from services.commands.wording import counted

app = typer.Typer(no_args_is_help=True, help="Set, show, pause and delete personas, through the gateway.")

SECRET_VARIABLE = "PERSONA_AUTH_SECRET"  # noqa: S105
"""Where `set` finds the secret of credentials: arguments can be read by everyone on the machine."""
KEYS_VARIABLE = "PERSONA_SIGNING_KEYS"
"""Where `set` finds signing keys, separated by spaces."""
API_KEY_VARIABLE = "N8N_API_KEY"
HEARD_SECONDS = 5
"""After so long every dispatcher has heard of a change of a persona: its own REFRESH_SECONDS, without its libraries."""

_LONGEST_ALIGNED = 80
"""Characters of a webhook's URL; what stands behind a longer one is out of line."""

PersonaId = Annotated[str, typer.Argument(help="The persona's id.")]


@app.command("set")
def set_persona(
    persona_id: PersonaId,
    *,
    webhook_url: Annotated[str, typer.Option(help="Where its n8n workflow listens.")],
    timeout_seconds: Annotated[float, typer.Option(help="Of one call.")] = 10,
    max_attempts: Annotated[int, typer.Option(help="Calls for one message, at most.")] = 3,
    deadline_seconds: Annotated[float, typer.Option(help="Of all calls for one message.")] = 60,
    first_byte_seconds: Annotated[
        float | None, typer.Option(help="Of one call, until n8n begins to answer.", show_default=False)
    ] = None,
    idle_seconds: Annotated[
        float | None, typer.Option(help="Of one call, between two pieces of its answer.", show_default=False)
    ] = None,
    idempotent: Annotated[bool, typer.Option(help="Whether a call may be repeated that may have begun.")] = False,
    callback_seconds: Annotated[
        float | None,
        typer.Option(help="How long its reply may take to be posted to callbackUrl.", show_default=False),
    ] = None,
    session_timeout_hours: Annotated[
        float | None, typer.Option(help="Without activity for so long its sessions time out.", show_default=False)
    ] = None,
    auth_header: Annotated[
        str | None, typer.Option(help="The header that the webhook asks for.", show_default=False)
    ] = None,
    auth_basic: Annotated[
        str | None, typer.Option(help="The user name that the webhook asks for.", show_default=False)
    ] = None,
    auth_jwt: Annotated[
        bool, typer.Option("--auth-jwt", help="The webhook asks for a JSON Web Token, signed with a passphrase.")
    ] = False,
    sign: Annotated[bool, typer.Option("--sign", help="Sign calls as Standard Webhooks do.")] = False,
    n8n_api_key: Annotated[
        bool, typer.Option("--n8n-api-key", help="Give it a key of n8n's API, to stop cancelled executions.")
    ] = False,
    n8n_api_url: Annotated[
        str | None, typer.Option(help="Of n8n's API, where not beside the webhook.", show_default=False)
    ] = None,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Make a persona, or replace it whole: what is not given gets its default, and credentials are removed.

    The header's value, the user's password or the passphrase is read from PERSONA_AUTH_SECRET, signing keys
    (whsec_…, separated by spaces) from PERSONA_SIGNING_KEYS, the key of n8n's API from N8N_API_KEY; in a terminal
    they are asked for.
    """
    body = {
        "webhookUrl": webhook_url,
        "timeoutSeconds": timeout_seconds,
        "maxAttempts": max_attempts,
        "deadlineSeconds": deadline_seconds,
        "firstByteSeconds": first_byte_seconds,
        "idleSeconds": idle_seconds,
        "idempotent": idempotent,
        "callbackSeconds": callback_seconds,
        "sessionTimeoutHours": session_timeout_hours,
        "auth": _credentials(auth_header, auth_basic, auth_jwt),
        "signingKeys": _secret(KEYS_VARIABLE, "Signing keys").split() if sign else [],
        "n8nApiKey": _secret(API_KEY_VARIABLE, "Key of n8n's API") if n8n_api_key else None,
        "n8nApiUrl": n8n_api_url,
    }
    typer.echo(_json(_ask("PUT", persona_id, data_dir, body)))


@app.command("get")
def get_persona(persona_id: PersonaId, data_dir: DataDirectoryOption = None) -> None:
    """Show one persona; its secrets stay where they are."""
    typer.echo(_json(_ask("GET", persona_id, data_dir)))


@app.command("list")
def list_personas(
    as_json: Annotated[bool, typer.Option("--json", help="Everything about them, for programs.")] = False,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Show all personas, one a line."""
    with chosen_target(data_dir) as target, target.client("admin", admin=True) as client:
        personas = list(_all_personas(client))
    if as_json:
        typer.echo(_json({"items": personas}))
    elif not personas:
        typer.echo("There is no persona: make one with `chat-sessions persona set`.")
    else:
        for line in persona_lines(personas):
            typer.echo(line)


@app.command("pause")
def pause_persona(persona_id: PersonaId, data_dir: DataDirectoryOption = None) -> None:
    """Let messages to a persona wait, in order; calls that run go on."""
    _ask("POST", persona_id, data_dir, action="/pause")
    typer.echo(
        f"{persona_id} is paused: within {HEARD_SECONDS} s no further call begins, and its messages wait until "
        f"`chat-sessions persona resume {persona_id}`."
    )


@app.command("resume")
def resume_persona(persona_id: PersonaId, data_dir: DataDirectoryOption = None) -> None:
    """Let the messages of a paused persona through again."""
    _ask("POST", persona_id, data_dir, action="/resume")
    typer.echo(f"{persona_id} is not paused: within {HEARD_SECONDS} s its messages go through.")


@app.command("delete")
def delete_persona(persona_id: PersonaId, data_dir: DataDirectoryOption = None) -> None:
    """Delete a persona; its sessions stay."""
    _ask("DELETE", persona_id, data_dir, otherwise="")
    typer.echo(f"{persona_id} is deleted; its sessions stay.")


def persona_lines(personas: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """A line for each persona of the gateway's JSON: its id, its webhook, whether it is paused, its limits."""
    width, url_width = (max(len(str(persona[of])) for persona in personas) for of in ("personaId", "webhookUrl"))
    url_width = min(url_width, _LONGEST_ALIGNED)
    for persona in personas:
        limits = ["paused"] if persona.get("paused") else []
        limits += [
            f"{persona['timeoutSeconds']:g} s a call",
            counted(int(str(persona["maxAttempts"])), "attempt"),
            f"{persona['deadlineSeconds']:g} s in all",
        ]
        limits += ["idempotent"] if persona["idempotent"] else []
        if persona.get("callbackSeconds"):
            limits.append(f"replies by callback within {persona['callbackSeconds']:g} s")
        limits += ["with credentials"] if persona["hasAuth"] else []
        limits += ["signed"] if persona.get("hasSigningKeys") else []
        yield f"{persona['personaId']!s:{width}}  {persona['webhookUrl']!s:{url_width}}  {', '.join(limits)}"


def _credentials(header: str | None, user: str | None, jwt: bool) -> dict[str, str] | None:
    if (header is not None) + (user is not None) + jwt > 1:
        raise CommandError(
            "Give either --auth-header or --auth-basic or --auth-jwt: a persona has one kind of credentials."
        )
    if header is not None:
        return {"type": "header", "name": header, "value": _secret(SECRET_VARIABLE, f"Value of {header}")}
    if user is not None:
        return {"type": "basic", "username": user, "password": _secret(SECRET_VARIABLE, f"Password of {user}")}
    return {"type": "jwt", "secret": _secret(SECRET_VARIABLE, "Passphrase")} if jwt else None


def _secret(variable: str, question: str) -> str:
    secret = os.environ.get(variable)
    if secret:
        return secret
    if not sys.stdin.isatty():
        raise CommandError(f"{variable} is not set: put the secret there, or run this in a terminal, which asks.")
    asked: str = typer.prompt(question, hide_input=True, err=True)
    return asked


def _all_personas(client: httpx.Client) -> Iterator[dict[str, object]]:
    cursor: str | None = None
    while True:
        page = answer_of(client.get("/api/personas", params={"limit": 200} | ({"cursor": cursor} if cursor else {})))
        if not isinstance(page, dict):
            raise CommandError("The gateway's answer is no list of personas: check the address.")
        yield from page["items"]
        cursor = page["nextCursor"]
        if cursor is None:
            return


def _ask(
    method: str,
    persona_id: str,
    data_dir: Path | None,
    body: dict[str, object] | None = None,
    *,
    action: str = "",
    otherwise: str = ": `chat-sessions persona set` makes it",
) -> object:
    """Return what the gateway answers to a call of the persona; where there is none, `otherwise` ends that sentence."""
    with chosen_target(data_dir) as target, target.client("admin", admin=True) as client:
        response = client.request(method, f"/api/personas/{quote(persona_id, safe='')}{action}", json=body)
        if refusal_code(response) == "no-such-persona":
            raise CommandError(f"There is no persona {persona_id!r}{otherwise}.")
        return answer_of(response)


def _json(answer: object) -> str:
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode()
