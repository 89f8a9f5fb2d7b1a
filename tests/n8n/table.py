"""The table of what a real n8n answers, as `docs/n8n-answers.md` keeps it.

`python -m tests.n8n.table > docs/n8n-answers.md` starts an n8n for it, and installs that first where it is missing.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from services.contracts import FailureKind
from services.local.n8n import start_n8n
from services.local.n8n_artifacts import N8N_FILES, n8n_artifacts
from services.local.n8n_workflows import WebhookCredentials, kept_credentials
from services.local.processes import free_port
from services.local.reaper import start_reaper
from services.webhook_dispatcher.credentials import NO_CREDENTIALS
from services.webhook_dispatcher.n8n import N8n
from tests.n8n.rows import LOOPBACK, ROWS, Row, Seen, call

DOCUMENT = Path(__file__).parents[2] / "docs" / "n8n-answers.md"

_LONGEST_BODY = 600


def release() -> str:
    """The n8n release that the recipe names."""
    recipe = json.loads((N8N_FILES / "package.json").read_text())
    return str(recipe["dependencies"]["n8n"])


async def see_all(url: str, credentials: WebhookCredentials) -> list[tuple[Row, Seen]]:
    """What an n8n at `url` answers to every row, one call after the other."""
    async with N8n(LOOPBACK) as n8n:
        return [(row, await see(n8n, url, row, credentials)) for row in ROWS]


async def see(n8n: N8n, url: str, row: Row, credentials: WebhookCredentials) -> Seen:
    """What an n8n at `url` answers to one row."""
    proof = NO_CREDENTIALS if row.credentials is None else row.credentials(credentials)
    seconds = 2.0 if row.kind is FailureKind.TIMEOUT else 10.0
    return await call(n8n, f"{url}/webhook/{row.webhook}", proof, timeout_seconds=seconds)


def document(seen: Sequence[tuple[Row, Seen]]) -> str:
    """The whole document."""
    lines = [
        "# What n8n answers",
        "",
        f"Seen on n8n {release()}, called by the dispatcher's own client with the message `Hello`. Each workflow is in",
        "`deploy/n8n/workflows`, named for its webhook. `python -m tests.n8n.table > docs/n8n-answers.md` makes this",
        "table anew, and `make test-n8n` checks that it is still true. Session ids, node ids and times are left out.",
        "",
        "| case | webhook | status | content type | body | the session |",
        "|---|---|---|---|---|---|",
        *(_line(row, found) for row, found in seen),
        "",
        "- A node that fails before the Respond to Webhook node is reached gives **200 with an empty body**, as does a",
        "  path that never reaches it: only n8n's list of executions tells the two apart.",
        "- At its concurrency limit (`N8N_CONCURRENCY_PRODUCTION_LIMIT`) n8n leaves a call unanswered until a place is",
        "  free: the call ends at the persona's `timeoutSeconds`, and the workflow still runs when its turn comes.",
        "- Outside n8n's own image, where `NODE_ENV` is not `production`, error bodies carry a `stacktrace` as well.",
        "- No answer names its execution by itself, streams included; the workflow `echo` does so in the header",
        "  `X-N8N-Execution-Id`, as `{{ $execution.id }}`.",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, found: Seen) -> str:
    ending = f"FAILED, `{found.verdict.value}`" if isinstance(found.verdict, FailureKind) else "COMPLETED"
    status = "none in time" if found.status is None else str(found.status)
    return (
        f"| {row.case} | `{row.webhook}` | {status} | {found.content_type or 'none'} | {_body(found.body)} | {ending} |"
    )


def _body(body: str | None) -> str:
    if body is None:
        return ""
    if not body:
        return "empty"
    text = body if len(body) <= _LONGEST_BODY else body[:_LONGEST_BODY] + "…"
    return "<br>".join(f"`{line}`" for line in text.replace("|", "\\|").splitlines())


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Print the document."""
    reaper = start_reaper()
    try:
        with tempfile.TemporaryDirectory(prefix="chat-sessions-n8n-") as name:
            directory = Path(name)
            artifacts = n8n_artifacts(directory / "install.log", reaper, _progress)
            running = start_n8n(directory, artifacts, free_port(), reaper, _progress)
            try:
                text = document(asyncio.run(see_all(running.url, kept_credentials(directory))))
            finally:
                running.stop()
    finally:
        reaper.close()
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
