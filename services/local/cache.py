"""What is fetched from elsewhere once and kept in the user's cache: never half of it, and never twice at a time."""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def cached_directory(name: str, recipe: bytes, environment: Mapping[str, str], make: Callable[[Path], None]) -> Path:
    """Return the directory of this name and recipe in the user's cache, made first if it is not there yet.

    `make` fills an empty directory, which is moved to its place once that has ended well; where it raises, nothing is
    left behind. Processes that ask at the same time wait for one making. `environment` may name the cache
    (XDG_CACHE_HOME).
    """
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chat-sessions"
    home = cache / f"{name}-{hashlib.sha256(recipe).hexdigest()[:16]}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_suffix(".lock")):
            if not home.exists():
                _make(home, make)
    return home


def _make(home: Path, make: Callable[[Path], None]) -> None:
    for broken in home.parent.glob(f"{home.name}.part-*"):
        shutil.rmtree(broken, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=home.parent, prefix=f"{home.name}.part-"))
    try:
        make(part)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; it ends with the process at the latest."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
