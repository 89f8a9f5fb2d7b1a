"""Secrets in texts that webhooks and workflows send back: found in whatever form, and hidden. No I/O."""

import html
import json
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "[hidden]"


def forms(secret: str) -> set[str]:
    """Return the secret as texts may tell it: as it is, escaped for JSON, HTML or a URL, or in Latin-1."""
    if not secret:
        return set()
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
        quote(secret, safe=""),
        secret.encode("latin-1", "replace").decode(errors="replace"),
    }


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return the text with `[hidden]` in place of each secret. Do so before cutting it: half a secret is not found."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text
