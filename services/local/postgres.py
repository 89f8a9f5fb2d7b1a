"""The embedded PostgreSQL: one cluster in a data directory, reachable through a Unix socket only."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.local.postgres_place import PostgresPlace, find_place
from services.local.processes import ChildProcess, ProcessEndedError, start_process
from services.local.reaper import Reaper

DATABASE = "chat_sessions"
_ROLE = "chat_sessions"
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0

# For a machine of a few GB that also runs everything else; commits stay durable.
_SERVER_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "4GB",
    "min_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "synchronous_commit": "on",
    "max_locks_per_transaction": "256",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
}


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server of this package's own."""

    process: ChildProcess
    place: PostgresPlace
    is_new: bool
    """Whether its cluster was made at this start."""

    def url(self, database: str = DATABASE) -> str:
        """The address of `database`, for SQLAlchemy; without `+asyncpg` also for asyncpg and psql."""
        return f"postgresql+asyncpg://{_ROLE}@/{database}?host={self.place.socket_directory}"

    def run_sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement and give its rows as text; PostgresError with the server's words if it fails."""
        return _run_sql(self.place, statement, database)

    def stop(self) -> None:
        """Disconnect every client, write everything to disk and end, within 10 s."""
        self.process.stop(_STOP_SECONDS, signal.SIGINT)


def start_postgres(
    directory: Path, log_path: Path, reaper: Reaper, extra_settings: Mapping[str, str] | None = None
) -> EmbeddedPostgres:
    """Start the cluster that belongs to `directory`, made if there is none, with the database `chat_sessions`.

    Returns once it takes connections. The data stays for the next start. A server that a killed run left behind
    on the same cluster is ended first. As root the server runs as a system user of its own, and the files are
    kept where that user can reach them. Raises PostgresError or ProcessEndedError.
    """
    place = find_place(directory)
    _end_left_over(place)
    is_new = not (place.data_directory / "PG_VERSION").exists()
    if is_new:
        _initialise(place, log_path)
    _check_version(place)
    settings = {**_SERVER_SETTINGS, **(extra_settings or {})}
    command = [str(place.programs / "postgres"), "-D", str(place.data_directory)]
    command += ["-k", str(place.socket_directory)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    child = start_process(
        "postgres",
        command,
        environment=_environment(),
        log_path=log_path,
        reaper=reaper,
        user=place.user,
        group=place.group,
    )
    _wait_until_ready(child, place)
    if DATABASE not in _run_sql(place, "SELECT datname FROM pg_database", "postgres").splitlines():
        _run_sql(place, f"CREATE DATABASE {DATABASE}", "postgres")
    return EmbeddedPostgres(child, place, is_new)


def _environment() -> dict[str, str]:
    """Only what PostgreSQL needs: its clients would read PGHOST and the like from the caller's environment."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _initialise(place: PostgresPlace, log_path: Path) -> None:
    # What an interrupted initdb left behind is no cluster.
    shutil.rmtree(place.data_directory, ignore_errors=True)
    command = [str(place.programs / "initdb"), "-D", str(place.data_directory), "-U", _ROLE, "--auth=trust"]
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    with log_path.open("ab") as log:
        done = subprocess.run(  # noqa: S603
            command,
            stdout=log,
            stderr=log,
            env=_environment(),
            cwd="/",
            timeout=_START_SECONDS,
            check=False,
            user=place.user,
            group=place.group,
            extra_groups=None if place.user is None else [],
        )
    if done.returncode != 0:
        raise PostgresError(f"PostgreSQL could not make its cluster in {place.data_directory}; see {log_path}.")


def _check_version(place: PostgresPlace) -> None:
    cluster = (place.data_directory / "PG_VERSION").read_text().strip()
    if cluster != place.major_version:
        raise PostgresError(
            f"The data in {place.data_directory} was written by PostgreSQL {cluster}, and this is "
            f"{place.major_version}. Use another --data-dir, or move the data over with pg_dump."
        )


def _wait_until_ready(child: ChildProcess, place: PostgresPlace) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while not _pid_file_says_ready(place, child.pid):
        child.ensure_running()
        if time.monotonic() > give_up:
            raise ProcessEndedError(f"PostgreSQL was not ready within {_START_SECONDS:.0f} s; see {child.log_path}.")
        time.sleep(0.02)


def _pid_file_lines(place: PostgresPlace) -> list[str]:
    try:
        return (place.data_directory / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _pid_file_says_ready(place: PostgresPlace, pid: int) -> bool:
    """The eighth line of postmaster.pid is the server's state."""
    lines = _pid_file_lines(place)
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _end_left_over(place: PostgresPlace) -> None:
    """End a server that still runs on this cluster, and remove lock files that name anything else."""
    lines = _pid_file_lines(place)
    if not lines:
        return
    pid = int(lines[0])
    if psutil.pid_exists(pid) and _works_in(process := psutil.Process(pid), place.data_directory):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)
    _wait_for_backends(place)
    (place.data_directory / "postmaster.pid").unlink(missing_ok=True)
    # PostgreSQL would take a killed server for a running one for as long as nobody has asked for its exit code.
    for lock in place.socket_directory.glob(".s.PGSQL.*.lock"):
        lock.unlink(missing_ok=True)


def _wait_for_backends(place: PostgresPlace) -> None:
    """Wait until a killed server's own processes have noticed; PostgreSQL does not start while they run."""
    give_up = time.monotonic() + _STOP_SECONDS
    while any(_works_in(process, place.data_directory) for process in psutil.process_iter()):
        if time.monotonic() > give_up:
            raise PostgresError(f"Processes of an older PostgreSQL still use {place.data_directory}: end them first.")
        time.sleep(0.05)


def _works_in(process: psutil.Process, directory: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == directory
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _run_sql(place: PostgresPlace, statement: str, database: str) -> str:
    command = [str(place.programs / "psql"), "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"]
    command += ["-h", str(place.socket_directory), "-U", _ROLE, "-d", database, "-c", statement]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, env=_environment(), cwd="/", timeout=60, check=False
    )
    if done.returncode != 0:
        raise PostgresError(f"PostgreSQL refused {statement!r}: {done.stderr.strip()}")
    return done.stdout.strip()
