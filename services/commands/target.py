"""Where the tools of the command line speak to: the stack in a data directory, or the environment's settings."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer

from services.commands.wording import listed
from services.runtime.secret_files import SUFFIX, UnusableSecretFile
from services.runtime.secret_files import secret as secret_of
from services.runtime.tokens import token_for

_NAMES_A_SYSTEM = (
    "JWT_SECRET",
    "JWT_SECRET_FILE",
    "KAFKA_BOOTSTRAP_SERVERS",
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "GATEWAY_PORT",
    "CHAT_SESSIONS_URL",
)

_ITS_OWN = ("CHAT_SESSIONS_TOKEN", "JWT_SECRET", "DATABASE_URL", "PERSONA_SECRETS_KEY")
"""Secrets that a running stack has itself: files of the terminal's environment say nothing about them."""

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
    is_stack: bool = False
    """Whether it is a stack of this machine, and the environment's own settings are others."""
    pids: Mapping[str, int] = field(default_factory=dict)
    """Of the processes of a stack of this machine."""
    passed_over: str | None = None
    """A sentence where a stack runs that one might have meant: why it is not the target, and what to do."""

    def token(
        self,
        user_id: str,
        *,
        admin: bool,
        lifetime: timedelta = timedelta(minutes=10),
        scopes: Sequence[str] = (),
        service: str | None = None,
    ) -> str:
        """A token as token_for() makes it, signed with the target's secret; CommandError without one."""
        secret = self._secret("JWT_SECRET")
        if not secret:
            raise CommandError(
                "JWT_SECRET is not set, so no token can be signed: set it, or give --data-dir of a running stack."
            )
        return token_for(
            self.environment, secret, user_id, admin=admin, lifetime=lifetime, scopes=scopes, service=service
        )

    def client(self, user_id: str, *, admin: bool, timeout_seconds: float = 15) -> httpx.Client:
        """An HTTP client of the gateway that acts for `user_id`, or as CHAT_SESSIONS_TOKEN says if that is set.

        CommandError where it is not, and no token can be signed either.
        """
        token = self.given_token()
        if not token and not self._secret("JWT_SECRET"):
            raise CommandError(
                "Neither CHAT_SESSIONS_TOKEN, a token for the gateway, nor JWT_SECRET, to sign one, is set: "
                "set one of them, or give --data-dir of a running stack."
            )
        token = token or self.token(user_id, admin=admin)
        return httpx.Client(
            base_url=self.gateway_url, headers={"authorization": f"Bearer {token}"}, timeout=timeout_seconds
        )

    def given_token(self) -> str | None:
        """CHAT_SESSIONS_TOKEN, as which a client acts; None where it is not set."""
        return self._secret("CHAT_SESSIONS_TOKEN") or None

    def _secret(self, name: str) -> str | None:
        try:
            return secret_of(name, self.environment)
        except UnusableSecretFile as error:
            raise CommandError(str(error)) from None


@contextmanager
def chosen_target(data_directory: Path | None) -> Iterator[Target]:
    """The stack in `data_directory`, whose settings also become this process's environment, or the environment.

    Where no directory is given and the environment names no system either, or only by its gateway's address, it is
    the stack that `up` runs by default; if the environment names nothing and none runs there, stderr says so. Raises
    CommandError if no stack runs in a directory that was given. A failure of what is done with the target is a
    CommandError that also tells which stack was passed over, if one was.
    """
    # What goes wrong with Kafka is told by the commands, in their own words.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    target = _stack_in(data_directory) if data_directory is not None else _default_target()
    try:
        yield target
    except CommandError as error:
        raise CommandError(_told(str(error), target)) from error
    except httpx.HTTPError as error:
        unreachable = (
            f"The gateway at {target.gateway_url} cannot be reached ({type(error).__name__}): "
            "start it, or set CHAT_SESSIONS_URL to where it runs."
        )
        raise CommandError(_told(unreachable, target)) from error


def _told(problem: str, target: Target) -> str:
    return problem if target.passed_over is None else f"{problem} {target.passed_over}"


def _default_target() -> Target:
    named = [name for name in _NAMES_A_SYSTEM if os.environ.get(name)]
    try:
        from services.local.data_directory import default_data_directory  # noqa: PLC0415
    except ImportError:
        return _environment_target(None)  # Without the `local` extra no stack can run here.
    directory = default_data_directory()
    if named == ["CHAT_SESSIONS_URL"] and _is_gateway_of(directory, os.environ["CHAT_SESSIONS_URL"]):
        return _stack_in(directory, own_token=False)
    if named:
        return _environment_target(_why_passed_over(directory, named) if _runs_in(directory) else None)
    try:
        return _stack_in(directory)
    except CommandError:
        typer.echo(
            f"No stack runs in {directory} (start one with `make run` or `chat-sessions up`), "
            "so the environment's settings are used.",
            err=True,
        )
        return _environment_target(None)


def _environment_target(passed_over: str | None) -> Target:
    port = os.environ.get("GATEWAY_PORT") or "3000"
    gateway_url = os.environ.get("CHAT_SESSIONS_URL") or f"http://127.0.0.1:{port}"
    return Target(os.environ, gateway_url, {}, passed_over=passed_over)


def _why_passed_over(directory: Path, named: list[str]) -> str:
    are, them = ("is", "it") if len(named) == 1 else ("are", "them")
    return f"{listed(named)} {are} set, so the stack in {directory} is not used: unset {them} or give --data-dir."


def _runs_in(directory: Path) -> bool:
    return (directory / "stack.json").exists()


def _is_gateway_of(directory: Path, url: str) -> bool:
    from services.local.data_directory import NoStackError, read_stack  # noqa: PLC0415

    try:
        stack = httpx.URL(read_stack(directory).gateway_url)
        given = httpx.URL(url)
    except (NoStackError, httpx.InvalidURL):
        return False
    same_server = (given.scheme, given.port) == (stack.scheme, stack.port) and given.host in {stack.host, "localhost"}
    return same_server and given.path == stack.path == "/"


def _stack_in(data_directory: Path, *, own_token: bool = True) -> Target:
    from services.local.data_directory import NoStackError, read_stack  # noqa: PLC0415

    try:
        stack = read_stack(data_directory)
    except NoStackError as error:
        raise CommandError(str(error)) from None
    others = {"JWT_JWKS_URL", "CHAT_SESSIONS_TOKEN", *(f"{name}{SUFFIX}" for name in _ITS_OWN)}
    if not own_token:  # One that was given beside the gateway's address is meant for it.
        others -= {"CHAT_SESSIONS_TOKEN", f"CHAT_SESSIONS_TOKEN{SUFFIX}"}
    for name in others:
        os.environ.pop(name, None)
    os.environ.update(stack.settings)
    return Target(os.environ, stack.gateway_url, stack.ops_urls, is_stack=True, pids=stack.pids)


def answer_of(response: httpx.Response) -> object:
    """The JSON of a good answer; CommandError with the gateway's own words otherwise."""
    if response.is_success:
        return response.json() if response.content else None
    problem = _problem(response)
    told = problem.get("detail") or problem.get("title") or response.text[:500]
    raise CommandError(f"The gateway answered {response.status_code}: {told}")


def refusal_code(response: httpx.Response) -> object:
    """The stable code of the problem that an answer tells; None of a good answer, and of one that tells none."""
    return None if response.is_success else _problem(response).get("code")


def _problem(response: httpx.Response) -> Mapping[str, object]:
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
