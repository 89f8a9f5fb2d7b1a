"""Large databases, for the benchmarks that read them or drop parts of them."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from services.database.migrate import migrate
from services.local.broker import start_broker
from services.local.postgres import EmbeddedPostgres, start_postgres
from services.local.processes import free_port
from services.local.reaper import Reaper, start_reaper
from tests.benchmarks.seeding import Seed, seed


@contextmanager
def lent_directory(kept: Path | None) -> Iterator[Path]:
    """Lend this directory, which stays, or one that goes."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as name:
            yield Path(name)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()


@contextmanager
def running(directory: Path) -> Iterator[tuple[EmbeddedPostgres, str, Reaper]]:
    """Lend a PostgreSQL that keeps what it commits and has the memory of a server's, and a broker's address."""
    directory.chmod(0o711)  # PostgreSQL's own user has to come in
    with ExitStack() as stack:
        reaper = start_reaper()
        stack.callback(reaper.close)
        postgres = start_postgres(directory, directory / "postgres.log", reaper, server_settings())
        stack.callback(postgres.stop)
        broker = start_broker(free_port(), directory / "broker.log", reaper)
        stack.callback(broker.process.stop, 0)
        yield postgres, broker.bootstrap, reaper


def server_settings() -> dict[str, str]:
    """What PostgreSQL's documentation begins with on a machine of its own: a quarter of its memory for pages."""
    megabytes = psutil.virtual_memory().total // 4 // 2**20
    return {"max_wal_size": "16GB", "shared_buffers": f"{megabytes}MB", "effective_cache_size": f"{2 * megabytes}MB"}


async def seeded(postgres: EmbeddedPostgres, name: str, sessions: int, *, rollups: bool = True) -> str:
    """Return the address of a database of so many sessions: the one of an earlier run here, or a new one."""
    began = time.monotonic()
    if name not in postgres.run_sql("SELECT datname FROM pg_database").splitlines():
        postgres.run_sql(f"DROP DATABASE IF EXISTS {name}_unfinished")
        postgres.run_sql(f"CREATE DATABASE {name}_unfinished")
        unfinished = postgres.url(f"{name}_unfinished")
        await migrate(unfinished)
        await seed(unfinished, Seed(sessions, datetime.now(UTC), rollups=rollups))
        postgres.run_sql(f"ALTER DATABASE {name}_unfinished RENAME TO {name}")
        size = postgres.run_sql(f"SELECT pg_size_pretty(pg_database_size('{name}'))")
        say(f"Seeded {sessions:,} sessions in {time.monotonic() - began:.0f} s: {size}")
    return postgres.url(name)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
