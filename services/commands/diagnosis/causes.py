"""What each kind of failure means, and what to do about it. Pure."""

from collections.abc import Mapping

from services.contracts.session import FailureKind

CAUSES: Mapping[FailureKind, tuple[str, str]] = {
    FailureKind.CONNECT: (
        "the webhook's address took no connection",
        "check that n8n runs and that the URL is right",
    ),
    FailureKind.TLS: (
        "the webhook's certificate was not accepted",
        "check its host name, its issuer and its dates",
    ),
    FailureKind.TIMEOUT: (
        "n8n did not answer in time",
        "look for its execution, or raise the persona's timeoutSeconds",
    ),
    FailureKind.HTTP_4XX: (
        "the webhook refused the request",
        "compare its method and authentication with the persona; a redirect is not followed: set the final address",
    ),
    FailureKind.HTTP_5XX: (
        "n8n, or a proxy before it, failed",
        "look at its log at that time",
    ),
    FailureKind.NOT_REGISTERED: (
        "no active workflow listens at the persona's URL",
        "activate the workflow, or correct the path",
    ),
    FailureKind.UNAUTHORIZED: (
        "the webhook wants other credentials",
        "set the persona's authentication anew",
    ),
    FailureKind.WORKFLOW_ERROR: (
        "a node of the workflow failed",
        "open its execution in n8n",
    ),
    FailureKind.NO_REPLY: (
        "the workflow ended without a reply",
        "let its Respond node be reached on every path",
    ),
    FailureKind.ACKNOWLEDGED_ONLY: (
        "n8n only said that it started",
        "set the webhook to respond with a Respond node",
    ),
    FailureKind.BAD_REPLY: (
        "the reply could not be read",
        "see which replies docs/personas.md lists",
    ),
    FailureKind.TOO_LARGE: (
        "the reply was larger than allowed",
        "shorten it in the workflow",
    ),
    FailureKind.ADDRESS_REFUSED: (
        "the webhook's address is not allowed",
        "add its network to EGRESS_ALLOW_CIDRS",
    ),
    FailureKind.UNKNOWN_PERSONA: (
        "there is no such persona",
        "make it with `chat-sessions persona set`",
    ),
    FailureKind.OVERLOADED: (
        "the persona could not keep up",
        "see how many of its calls hang, then retry the session",
    ),
    FailureKind.EXPIRED: (
        "the message was too old to call",
        "see whether its persona was paused or dispatchers down",
    ),
    FailureKind.CALLBACK_TIMEOUT: (
        "n8n accepted the message and never called back",
        "open its execution in n8n",
    ),
}
"""Of each failure: what happened, and what to do."""
