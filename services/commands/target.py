"""Where the tools of the command line speak to: the stack in a data directory, or the environment's settings."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer

from services.commands.tokens import mint_token

_NAMES_A_SYSTEM = ("JWT_SECRET", "KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "GATEWAY_PORT", "CHAT_SESSIONS_URL")

DataDirectoryOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Speak to the stack that `chat-sessions up` runs there.", show_default=False),
]


class CommandError(Exception):
    """A command cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A system to speak to, as the environment describes it."""

    environment: Mapping[str, str]
    gateway_url: str
    ops_urls: Mapping[str, str]

    def token(self, user_id: str, *, admin: bool, lifetime: timedelta = timedelta(minutes=10)) -> str:
        """A token for `user_id`, signed with the target's secret; CommandError without one."""
        secret = self.environment.get("JWT_SECRET")
        if not secret:
            raise CommandError(
                "JWT_SECRET is not set, so no token can be signed: set it, or give --data-dir of a running stack."
            )
        return mint_token(
            user_id,
            secret,
            admin=admin,
            now=datetime.now(UTC),
            lifetime=lifetime,
            issuer=self.environment.get("JWT_ISSUER") or None,
            audience=self.environment.get("JWT_AUDIENCE") or None,
        )

    def client(self, user_id: str, *, admin: bool, timeout_seconds: float = 15) -> httpx.Client:
        """An HTTP client of the gateway that acts for `user_id`, or as CHAT_SESSIONS_TOKEN says if that is set."""
        token = self.environment.get("CHAT_SESSIONS_TOKEN") or self.token(user_id, admin=admin)
        return httpx.Client(
            base_url=self.gateway_url, headers={"authorization": f"Bearer {token}"}, timeout=timeout_seconds
        )


def choose_target(data_directory: Path | None) -> Target:
    """The stack in `data_directory`, whose settings also become this process's environment, or the environment.

    Where no directory is given and the environment names no system either, it is the stack that `up` runs by default,
    if it runs. Raises CommandError if no stack runs in a directory that was given.
    """
    if data_directory is not None:
        return _stack_in(data_directory)
    if not any(name in os.environ for name in _NAMES_A_SYSTEM):
        # Without the `local` extra no stack can run here.
        with contextlib.suppress(CommandError, ImportError):
            from services.local.data_directory import default_data_directory  # noqa: PLC0415

            return _stack_in(default_data_directory())
    port = os.environ.get("GATEWAY_PORT", "3000")
    return Target(os.environ, os.environ.get("CHAT_SESSIONS_URL", f"http://127.0.0.1:{port}"), {})


def _stack_in(data_directory: Path) -> Target:
    from services.local.data_directory import NoStackError, read_stack  # noqa: PLC0415

    try:
        stack = read_stack(data_directory)
    except NoStackError as error:
        raise CommandError(str(error)) from None
    os.environ.pop("CHAT_SESSIONS_TOKEN", None)
    os.environ.update(stack.settings)
    return Target(os.environ, stack.gateway_url, stack.ops_urls)


def answer_of(response: httpx.Response) -> object:
    """The JSON of a good answer; CommandError with the gateway's own words otherwise."""
    if response.is_success:
        return response.json() if response.content else None
    try:
        problem = response.json()
        told = problem.get("detail") or problem.get("title") or response.text
    except (ValueError, AttributeError):
        told = response.text[:500]
    raise CommandError(f"The gateway answered {response.status_code}: {told}")
