"""W3C trace context: a message keeps one trace from its POST to its webhook. https://www.w3.org/TR/trace-context/"""

import re
import secrets

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


def continued(traceparent: str | None) -> str:
    """Return a traceparent with a new span of the given trace, of a new trace where none is given or it is invalid."""
    parent = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    trace_id, flags = parent.groups() if parent else (secrets.token_hex(16), "01")
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"
