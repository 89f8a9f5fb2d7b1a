"""`chat-sessions persona`: the personas that messages can be sent to."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import orjson
import typer

from services.commands.target import DataDirectoryOption, answer_of, choose_target

app = typer.Typer(no_args_is_help=True, help="Set, show and delete personas, through the gateway.")

PersonaId = Annotated[str, typer.Argument(help="The persona's id.")]


@app.command("set")
def set_persona(
    persona_id: PersonaId,
    *,
    webhook_url: Annotated[str, typer.Option(help="Where its n8n workflow listens.")],
    timeout_seconds: Annotated[float | None, typer.Option(help="Of one call.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Calls for one message, at most.")] = None,
    deadline_seconds: Annotated[float | None, typer.Option(help="Of all calls for one message.")] = None,
    idempotent: Annotated[bool | None, typer.Option(help="Whether a call may be repeated that may have begun.")] = None,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Make a persona, or replace it: what is not given gets its default."""
    given: dict[str, object] = {
        "webhookUrl": webhook_url,
        "timeoutSeconds": timeout_seconds,
        "maxAttempts": max_attempts,
        "deadlineSeconds": deadline_seconds,
        "idempotent": idempotent,
    }
    body = {name: value for name, value in given.items() if value is not None}
    _call("PUT", persona_id, data_dir, body)


@app.command("get")
def get_persona(persona_id: PersonaId, data_dir: DataDirectoryOption = None) -> None:
    """Show one persona; its secrets stay where they are."""
    _call("GET", persona_id, data_dir)


@app.command("list")
def list_personas(data_dir: DataDirectoryOption = None) -> None:
    """Show all personas."""
    _call("GET", None, data_dir)


@app.command("delete")
def delete_persona(persona_id: PersonaId, data_dir: DataDirectoryOption = None) -> None:
    """Delete a persona; its sessions stay."""
    _call("DELETE", persona_id, data_dir)


def _call(method: str, persona_id: str | None, data_dir: Path | None, body: dict[str, object] | None = None) -> None:
    path = "/api/personas" if persona_id is None else f"/api/personas/{quote(persona_id, safe='')}"
    with choose_target(data_dir).client("admin", admin=True) as client:
        answer = answer_of(client.request(method, path, json=body))
    typer.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() if answer is not None else "Done.")
