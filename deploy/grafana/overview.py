"""Is all well, and if not, where to look."""

import math

from deploy.grafana.boards import Board, Panel, Query, Row
from deploy.grafana.queries import quantiles, rate

OVERVIEW = Board(
    "chat-sessions-overview",
    "Chat sessions: overview",
    "Is all well, and if not, where to look.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Alerts",
                    "Alerts that fire; docs/runbook.md has an entry for each.",
                    "short",
                    [Query('sum(ALERTS{alertstate="firing"}) or vector(0)', "firing")],
                    bad_from=1,
                ),
                Panel(
                    "Processes that do not answer",
                    "Of those that Prometheus knows.",
                    "short",
                    [Query("count(up == 0) or vector(0)", "down")],
                    bad_from=1,
                ),
                Panel(
                    "Sessions that ended badly",
                    "FAILED and TIMEOUT among those that ended in the last hour; the objective allows 1 %.",
                    "percentunit",
                    [Query("chat:sessions_failed:ratio_rate1h or vector(0)", "failed")],
                    bad_from=0.01,
                ),
                Panel(
                    "Oldest unfinished record",
                    "The age of what a consumer has not finished; a dispatcher's calls may take minutes.",
                    "s",
                    [Query("max by (group) (chat_consumer_lag_seconds)", "{{group}}")],
                    bad_from=60,
                ),
                Panel(
                    "Dead letters",
                    "Records that nobody could use, in the last day.",
                    "short",
                    [Query("sum(increase(chat_dead_letters_total[1d])) or vector(0)", "dead letters")],
                    bad_from=1,
                ),
                Panel(
                    "Sessions active",
                    "Sessions that have not ended, as PostgreSQL counts.",
                    "short",
                    [Query("max(chat_sessions_active)", "active")],
                    bad_from=math.inf,
                ),
            ],
        ),
        Row(
            "Sessions",
            [
                Panel(
                    "Started and ended",
                    "Sessions a second, as the tracker committed them.",
                    "ops",
                    [
                        rate("chat_sessions_started_total", "started"),
                        rate("chat_sessions_ended_total", "{{status}}", by="status"),
                    ],
                ),
                Panel(
                    "Response time",
                    "From a message to its reply, of completed sessions; the objective is 95 % within 10 s.",
                    "s",
                    quantiles("chat_session_response_seconds"),
                ),
                Panel(
                    "Failures by kind",
                    "Failed sessions a second.",
                    "ops",
                    [rate("chat_session_failures_total", "{{kind}}", by="kind")],
                ),
            ],
        ),
        Row(
            "Error budget",
            [
                Panel(
                    "Success: how fast the budget burns",
                    "1 = just what the objective of 99 % allows; an alert fires from 14.4 in an hour, 6 in six.",
                    "short",
                    [
                        Query("chat:sessions_failed:ratio_rate1h / 0.01", "1 h"),
                        Query("chat:sessions_failed:ratio_rate6h / 0.01", "6 h"),
                        Query("chat:sessions_failed:ratio_rate3d / 0.01", "3 d"),
                    ],
                ),
                Panel(
                    "Response time: how fast the budget burns",
                    "1 = just the 5 % that may take longer than 10 s; alerts fire from 14.4 in an hour, 6 in six.",
                    "short",
                    [
                        Query("chat:responses_slow:ratio_rate1h / 0.05", "1 h"),
                        Query("chat:responses_slow:ratio_rate6h / 0.05", "6 h"),
                        Query("chat:responses_slow:ratio_rate3d / 0.05", "3 d"),
                    ],
                ),
            ],
        ),
        Row(
            "Processes and Kafka",
            [
                Panel("Processes up", "By kind.", "short", [Query("sum by (job) (up)", "{{job}}")]),
                Panel(
                    "Consumer lag",
                    "Records that are published and not finished.",
                    "short",
                    [Query("sum by (group) (chat_consumer_lag_records)", "{{group}}")],
                ),
                Panel(
                    "Since Kafka last answered",
                    "It rises while Kafka is away.",
                    "s",
                    [Query("max by (group) (chat_consumer_last_poll_age_seconds)", "{{group}}")],
                ),
                Panel(
                    "Accepted and refused",
                    "Messages that Kafka acknowledged, events that it did not, and requests refused for overload.",
                    "ops",
                    [
                        rate("chat_messages_accepted_total", "accepted"),
                        rate("chat_publish_not_acknowledged_total", "not acknowledged"),
                        rate("chat_http_requests_shed_total", "overload"),
                    ],
                ),
            ],
        ),
    ],
)
