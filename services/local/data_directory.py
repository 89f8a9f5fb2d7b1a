"""What `chat-sessions up` keeps on disk: its lock, its secrets, its logs and `stack.json`."""

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from services.local.processes import PortBusyError, ensure_port_is_free, free_port
from services.local.reaper import is_alive

_OLD_RUN_SECONDS = 15.0


class AlreadyRunningError(Exception):
    """Another `up` has the data directory; the message says which."""


class UnusableDirectoryError(Exception):
    """A path cannot be the data directory; the message says why."""


class DirectoryGoneError(Exception):
    """The data directory was deleted while it was in use; the message says which."""


class NoStackError(Exception):
    """No stack runs in a data directory; the message says how to start one."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """One data directory. Whoever holds `lock` (a file descriptor) is the only `up` on it."""

    path: Path
    lock: int

    @property
    def logs(self) -> Path:
        """Where process logs go, `NAME.log` each."""
        return self.path / "logs"

    @property
    def stack_file(self) -> Path:
        """stack.json, there while a stack runs."""
        return self.path / "stack.json"

    def jwt_secret(self) -> str:
        """The secret that signs this stack's tokens: the same at every start."""
        return _kept_secret(self.path / "jwt-secret", secrets.token_urlsafe(48))

    def persona_secrets_key(self) -> str:
        """The Fernet key that encrypts personas' secrets: the same at every start."""
        return _kept_secret(self.path / "persona-secrets-key", Fernet.generate_key().decode())

    def user_hash_key(self) -> str:
        """The key of the hashes that name end users in the audit log: the same at every start."""
        return _kept_secret(self.path / "user-hash-key", secrets.token_urlsafe(48))

    def n8n_port(self) -> int:
        """A port for the stub n8n: the same at every start if it is free, since personas remember their webhooks."""
        kept = self.path / "n8n-port"
        port = int(kept.read_text()) if kept.exists() else free_port()
        try:
            ensure_port_is_free(port, "the stub n8n")
        except PortBusyError:
            port = free_port()
        write_private(kept, str(port))
        return port

    def made_personas(self) -> dict[str, Any]:
        """The personas as earlier starts made them."""
        return dict(json.loads(self._personas_file.read_text())) if self._personas_file.exists() else {}

    def keep_made_personas(self, made: Mapping[str, object]) -> None:
        """Keep what the next start finds in made_personas()."""
        write_private(self._personas_file, json.dumps(made))

    @property
    def _personas_file(self) -> Path:
        return self.path / "personas-made.json"

    def write_stack(self, stack: dict[str, object]) -> None:
        """Replace stack.json: a reader sees the old one or the new one, and only its owner can read it."""
        write_private(self.stack_file, json.dumps(stack, indent=2))

    def ensure_there(self) -> None:
        """Raise DirectoryGoneError if the directory, or the lock in it, was deleted since it was opened."""
        if os.fstat(self.lock).st_nlink == 0:
            raise DirectoryGoneError(f"{self.path} was deleted, so everything stops: begin anew with another start.")

    def remove_stack(self) -> None:
        """Remove stack.json, if there is one."""
        self.stack_file.unlink(missing_ok=True)


def default_data_directory() -> Path:
    """Where `up` keeps its data unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/chat-sessions")
    return Path.home() / ".local" / "share" / "chat-sessions"


def open_data_directory(path: Path) -> DataDirectory:
    """Make `path` if it is missing, and lock it.

    The remains of a killed run are waited for. The logs of the run before are kept as `NAME.log.1`. Raises
    AlreadyRunningError if another `up` runs on it, UnusableDirectoryError if it cannot be made or written to.
    """
    try:
        # Root's database runs as a user of its own, which must get through here.
        path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        path = path.resolve()
        lock = os.open(path / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UnusableDirectoryError(f"{path} cannot be the data directory ({why}): give another --data-dir.") from None
    _lock(lock, path)
    directory = DataDirectory(path, lock)
    directory.remove_stack()
    directory.logs.mkdir(mode=0o700, exist_ok=True)
    for log in directory.logs.glob("*.log"):
        log.replace(log.with_name(f"{log.name}.1"))
    return directory


@dataclass(frozen=True, slots=True)
class RunningStack:
    """How to speak to a running stack: `settings` are environment variables, secrets among them."""

    gateway_url: str
    ops_urls: dict[str, str]
    settings: dict[str, str]
    pids: dict[str, int]
    """Of every process, by its name in `ops_urls`, as it was when stack.json was written last."""


def read_stack(path: Path) -> RunningStack:
    """The stack that runs in `path`; NoStackError if none does."""
    try:
        stack = json.loads((path / "stack.json").read_text())
        jwt_secret = (path / "jwt-secret").read_text()
        persona_secrets_key = (path / "persona-secrets-key").read_text()
    except FileNotFoundError:
        raise NoStackError(f"No stack runs in {path}: start one with `chat-sessions up --data-dir {path}`.") from None
    settings = {
        **stack["kafkaSettings"],
        "KAFKA_BOOTSTRAP_SERVERS": stack["kafkaBootstrap"],
        "DATABASE_URL": stack["databaseUrl"],
        "JWT_SECRET": jwt_secret,
        "PERSONA_SECRETS_KEY": persona_secrets_key,
    }
    return RunningStack(stack["gatewayUrl"], stack["opsUrls"], settings, stack["processes"])


def _lock(lock: int, path: Path) -> None:
    give_up = time.monotonic() + _OLD_RUN_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = int(os.pread(lock, 32, 0) or b"0")
            # When a killed run's reaper is still at work, it holds the lock a little longer.
            if is_alive(holder) or time.monotonic() > give_up:
                raise AlreadyRunningError(
                    f"`chat-sessions up` already runs on {path} (pid {holder}): stop it, or give another --data-dir."
                ) from None
            time.sleep(0.1)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return


def _kept_secret(path: Path, fresh: str) -> str:
    if not path.exists():
        write_private(path, fresh)
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Put `text` at `path` at one blow, readable by its owner only."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(number, "w") as file:
        file.write(text)
    Path(name).replace(path)
