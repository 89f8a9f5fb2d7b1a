"""One persona, from its sessions to its webhook."""

from deploy.grafana.boards import Board, Choice, Panel, Query, Row
from deploy.grafana.queries import quantiles, rate

OWN = 'persona="$persona"'

PERSONA = Board(
    "chat-sessions-persona",
    "Chat sessions: one persona",
    "One persona, from its sessions to its webhook. Those beyond the first 200 are together in `other`.",
    [
        Row(
            "Sessions",
            [
                Panel(
                    "Started and ended",
                    "Sessions a second, as the tracker committed them.",
                    "ops",
                    [
                        rate("chat_sessions_started_total", "started", where=OWN),
                        rate("chat_sessions_ended_total", "{{status}}", by="status", where=OWN),
                    ],
                ),
                Panel(
                    "Completed among those that ended",
                    "Cancelled ones left out.",
                    "percentunit",
                    [
                        Query(
                            f'sum(rate(chat_sessions_ended_total{{{OWN}, status="COMPLETED"}}[$__rate_interval]))'
                            f' / sum(rate(chat_sessions_ended_total{{{OWN}, status!="CANCELLED"}}[$__rate_interval]))',
                            "completed",
                        )
                    ],
                ),
                Panel(
                    "Response time",
                    "From a message to its reply, of completed sessions.",
                    "s",
                    quantiles("chat_session_response_seconds", where=OWN),
                ),
                Panel(
                    "Failures by kind",
                    "Failed sessions a second.",
                    "ops",
                    [rate("chat_session_failures_total", "{{kind}}", by="kind", where=OWN)],
                ),
            ],
        ),
        Row(
            "Webhook",
            [
                Panel(
                    "Calls by outcome",
                    "Webhook calls that ended, and messages given up without one, a second.",
                    "ops",
                    [rate("chat_webhook_attempts_total", "{{outcome}}", by="outcome", where=OWN)],
                ),
                Panel(
                    "Webhook time",
                    "From a call to the end of its answer.",
                    "s",
                    quantiles("chat_webhook_seconds", where=OWN),
                ),
                Panel(
                    "Calls made again",
                    "By the kind of failure before.",
                    "ops",
                    [rate("chat_webhook_retries_total", "{{kind}}", by="kind", where=OWN)],
                ),
                Panel(
                    "Breaker and calls allowed",
                    "Breaker: 0 closed, 1 trying, 2 open. Calls that may run at once; 0 = paused.",
                    "short",
                    [
                        Query(f"max(chat_webhook_breaker_state{{{OWN}}})", "breaker"),
                        Query(f"min(chat_webhook_calls_limit{{{OWN}}})", "calls allowed"),
                    ],
                ),
            ],
        ),
    ],
    [Choice("persona", "label_values(chat_sessions_started_total, persona)")],
)
