"""The gateway: requests, publishing, and who waits and watches."""

from deploy.grafana.boards import Board, Panel, Query, Row
from deploy.grafana.queries import quantiles, rate

GATEWAY = Board(
    "chat-sessions-gateway",
    "Chat sessions: gateway",
    "Requests, publishing, and who waits and watches.",
    [
        Row(
            "Requests",
            [
                Panel(
                    "Requests by status",
                    "Requests a second.",
                    "reqps",
                    [rate("chat_http_requests_total", "{{status}}", by="status")],
                ),
                Panel(
                    "Requests by route",
                    "Requests a second.",
                    "reqps",
                    [rate("chat_http_requests_total", "{{method}} {{route}}", by="method, route")],
                ),
                Panel(
                    "Server errors by route",
                    "Answers from 500 on; 503 says what is away.",
                    "reqps",
                    [
                        rate(
                            "chat_http_requests_total",
                            "{{status}} {{route}}",
                            by="status, route",
                            where='status=~"5.."',
                        )
                    ],
                ),
            ],
        ),
        Row(
            "Time",
            [
                Panel(
                    "Time to answer",
                    "Of all requests, waits (`?wait=`) included.",
                    "s",
                    quantiles("chat_http_request_seconds"),
                ),
                Panel(
                    "Time to answer by route",
                    "95 of 100 requests were answered within it.",
                    "s",
                    quantiles("chat_http_request_seconds", by="route", of=(0.95,)),
                ),
                Panel(
                    "Time until Kafka acknowledged", "Of every event published.", "s", quantiles("chat_publish_seconds")
                ),
            ],
        ),
        Row(
            "How much at once",
            [
                Panel(
                    "In hand, waiting, exporting",
                    "Requests at this moment. More than GATEWAY_MAX_REQUESTS in hand are refused.",
                    "short",
                    [
                        Query("sum(chat_http_requests_in_hand)", "in hand"),
                        Query("sum(chat_waiters)", "waiting for a session"),
                        Query("sum(chat_exports)", "exports"),
                    ],
                ),
                Panel(
                    "Refused, not acknowledged",
                    "Requests refused for overload, events that Kafka did not acknowledge.",
                    "ops",
                    [
                        rate("chat_http_requests_shed_total", "overload"),
                        rate("chat_publish_not_acknowledged_total", "not acknowledged"),
                    ],
                ),
                Panel(
                    "What it leans on",
                    "1 = rate limits are counted together; the keys of tokens can be fetched.",
                    "short",
                    [
                        Query("min(chat_rate_limit_storage_up)", "rate limits"),
                        Query("min(chat_signing_keys_up)", "signing keys"),
                    ],
                ),
            ],
        ),
        Row(
            "Live",
            [
                Panel("Streams open", "Streams of events.", "short", [Query("sum(chat_live_streams)", "streams")]),
                Panel(
                    "Events sent", "Events a second, to all streams.", "ops", [rate("chat_live_events_total", "events")]
                ),
                Panel(
                    "How late watchers are told",
                    "From the publishing of what changed to its telling.",
                    "s",
                    quantiles("chat_live_delay_seconds"),
                ),
                Panel(
                    "What ended streams",
                    "Streams a second; `slow` ones took less than there was to tell.",
                    "ops",
                    [rate("chat_live_streams_ended_total", "{{why}}", by="why")],
                ),
            ],
        ),
    ],
)
