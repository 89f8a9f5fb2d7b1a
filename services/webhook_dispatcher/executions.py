"""Which execution of n8n answered, where the workflow tells. No I/O.

n8n puts the id of an execution into no answer by itself (looked up in 2.30, streaming lines included; its hosted chat
alone does, as `executionId`). A workflow tells it as `{{ $execution.id }}`, in a header of its Respond to Webhook node
or in a field of its answer.
"""

import json
import re

from services.webhook_dispatcher.outcomes import Answer

EXECUTION_HEADER = "x-n8n-execution-id"

_FIELD = "executionId"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def execution_id(answer: Answer) -> str | None:
    """Return the id that an answer tells: in the header, a line of its stream, its object or its first item.

    None where it tells none, or something that can be no id.
    """
    if answer.execution_header is not None:
        return plausible(answer.execution_header, answer.secrets)
    if answer.stream is not None:
        return plausible(answer.stream.execution_id, answer.secrets)
    if _FIELD.encode() not in answer.body:
        return None
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    value = value[0] if isinstance(value, list) and value else value
    return plausible(value.get(_FIELD), answer.secrets) if isinstance(value, dict) else None


def plausible(value: object, secrets: tuple[str, ...]) -> str | None:
    """Return the id that this is, None where it can be none."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if _ID.fullmatch(text) and text not in secrets else None
