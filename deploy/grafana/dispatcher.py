"""The dispatcher: what n8n answers, how fast, and which personas are held back."""

from deploy.grafana.boards import Board, Panel, Query, Row
from deploy.grafana.queries import quantiles, rate

DISPATCHER = Board(
    "chat-sessions-dispatcher",
    "Chat sessions: dispatcher by persona",
    "What n8n answers, how fast, and which personas are held back.",
    [
        Row(
            "Calls",
            [
                Panel(
                    "Calls by outcome",
                    "Webhook calls that ended, and messages given up without one, a second.",
                    "ops",
                    [rate("chat_webhook_attempts_total", "{{outcome}}", by="outcome")],
                ),
                Panel(
                    "Calls by persona",
                    "The same, by persona.",
                    "ops",
                    [rate("chat_webhook_attempts_total", "{{persona}}", by="persona")],
                ),
                Panel(
                    "Calls that brought no reply",
                    "By persona and outcome: n8n's own doing, mostly.",
                    "ops",
                    [
                        rate(
                            "chat_webhook_attempts_total",
                            "{{persona}} {{outcome}}",
                            by="persona, outcome",
                            where='outcome!~"replied|accepted"',
                        )
                    ],
                ),
            ],
        ),
        Row(
            "Time",
            [
                Panel("Webhook time", "From a call to the end of its answer.", "s", quantiles("chat_webhook_seconds")),
                Panel(
                    "Webhook time by persona",
                    "95 of 100 calls ended within it.",
                    "s",
                    quantiles("chat_webhook_seconds", by="persona", of=(0.95,)),
                ),
                Panel(
                    "Calls made again",
                    "By persona and the kind of failure before.",
                    "ops",
                    [rate("chat_webhook_retries_total", "{{persona}} {{kind}}", by="persona, kind")],
                ),
            ],
        ),
        Row(
            "Held back",
            [
                Panel(
                    "Breakers",
                    "0 closed, 1 trying, 2 open: the persona's webhook is left alone. Only those that are not closed.",
                    "short",
                    [Query("max by (persona) (chat_webhook_breaker_state) > 0", "{{persona}}")],
                ),
                Panel(
                    "Calls allowed at once",
                    "By persona, as found by trying; 0 = paused.",
                    "short",
                    [Query("min by (persona) (chat_webhook_calls_limit)", "{{persona}}")],
                ),
                Panel(
                    "In flight and held",
                    "Calls that run, and messages taken that are not finished.",
                    "short",
                    [
                        Query("sum(chat_webhook_calls_in_flight)", "in flight"),
                        Query("sum(chat_dispatcher_held_messages)", "held"),
                        Query("sum(chat_dispatcher_paused_partition)", "partitions paused"),
                    ],
                ),
            ],
        ),
        Row(
            "Kafka",
            [
                Panel(
                    "Messages finished",
                    "By how they came to need no more work.",
                    "ops",
                    [rate("chat_dispatcher_finished_messages_total", "{{end}}", by="end")],
                ),
                Panel(
                    "Oldest unfinished message",
                    "By partition. A message that its persona is still at, or that waits for a paused one, counts too.",
                    "s",
                    [
                        Query(
                            'max by (partition) (chat_consumer_lag_seconds{group="webhook-dispatcher"})',
                            "partition {{partition}}",
                        )
                    ],
                ),
                Panel(
                    "Troubles with Kafka",
                    "Results published again, offsets not committed, what is known of a partition read again.",
                    "ops",
                    [
                        rate("chat_dispatcher_unacknowledged_results_total", "results again"),
                        rate("chat_consumer_failed_commits_total", "commits {{group}}", by="group"),
                        rate("chat_dispatcher_catch_ups_total", "read again"),
                    ],
                ),
                Panel(
                    "Streamed replies and stopped executions",
                    "Pieces of replies, by fate; executions of cancelled sessions, by how stopping them went.",
                    "ops",
                    [
                        rate("chat_dispatcher_reply_deltas_total", "pieces {{fate}}", by="fate"),
                        rate("chat_webhook_execution_stops_total", "stops {{outcome}}", by="outcome"),
                    ],
                ),
            ],
        ),
    ],
)
