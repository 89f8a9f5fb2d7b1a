"""The tracker: whether it keeps up, what its transactions cost, and the life of the data."""

from deploy.grafana.boards import Board, Panel, Query, Row
from deploy.grafana.queries import mean, quantiles, rate

TRACKER = Board(
    "chat-sessions-tracker",
    "Chat sessions: tracker and lag",
    "Whether consumers keep up, what the fold costs, and the life of the data.",
    [
        Row(
            "Lag",
            [
                Panel(
                    "Oldest unfinished record",
                    "Its age, by group; 0 = nothing is left.",
                    "s",
                    [Query("max by (group) (chat_consumer_lag_seconds)", "{{group}}")],
                ),
                Panel(
                    "Records left",
                    "By group and topic.",
                    "short",
                    [Query("sum by (group, topic) (chat_consumer_lag_records)", "{{group}} {{topic}}")],
                ),
                Panel(
                    "Not folded yet",
                    "How far the slowest partition's fold is behind the clock; about a second is normal.",
                    "s",
                    [Query("time() - max(chat_fold_progress_timestamp_seconds)", "behind")],
                ),
                Panel(
                    "Since Kafka last answered",
                    "By group.",
                    "s",
                    [Query("max by (group) (chat_consumer_last_poll_age_seconds)", "{{group}}")],
                ),
            ],
        ),
        Row(
            "Fold",
            [
                Panel(
                    "Events folded",
                    "New events a second; `late` ones came after their session's end.",
                    "ops",
                    [rate("chat_events_folded_total", "{{outcome}}", by="outcome")],
                ),
                Panel(
                    "Time of a batch",
                    "The fold's transaction and the publishing of its changes.",
                    "s",
                    quantiles("chat_fold_seconds"),
                ),
                Panel("Records in a batch", "The mean.", "short", [mean("chat_fold_batch_records", "records")]),
                Panel(
                    "Batches again, records of no use",
                    "Passing faults, dead letters by reason, records found on another partition than their key's.",
                    "ops",
                    [
                        rate("chat_consumer_retried_batches_total", "again {{group}}", by="group"),
                        rate("chat_dead_letters_total", "dead {{group}} {{reason}}", by="group, reason"),
                        rate("chat_misplaced_records_total", "misplaced {{topic}}", by="topic"),
                    ],
                ),
            ],
        ),
        Row(
            "Sweeps and statistics",
            [
                Panel(
                    "Since the last sweep was due",
                    "Of those that finished, beside the time between two.",
                    "s",
                    [
                        Query("time() - max(chat_sweep_last_timestamp_seconds)", "last sweep"),
                        Query("max(chat_sweep_interval_seconds)", "between two"),
                    ],
                ),
                Panel(
                    "Sweeps in a day",
                    "Asked for, finished, what they timed out, and chunks that they skipped.",
                    "short",
                    [
                        Query("max(increase(chat_sweeps_requested_total[1d]))", "asked for"),
                        Query("sum(increase(chat_sweeps_total[1d]))", "finished"),
                        Query("sum(increase(chat_sweep_timeouts_total[1d]))", "sessions timed out"),
                        Query("sum(increase(chat_sweep_failed_chunks_total[1d]))", "chunks skipped"),
                    ],
                ),
                Panel(
                    "Rollup drift",
                    "Counts by which statistics were found wrong since the start: it must be 0.",
                    "short",
                    [Query("max(chat_rollup_drift)", "drift")],
                ),
                Panel(
                    "Hours of rollups checked",
                    "Hours a second: 0 means that nobody checks.",
                    "ops",
                    [rate("chat_rollup_checks_total", "hours")],
                ),
            ],
        ),
        Row(
            "The life of data",
            [
                Panel(
                    "Room for sessions",
                    "For how long there are partitions; about two months is normal.",
                    "s",
                    [Query("max(chat_partitions_until_timestamp_seconds) - time()", "room")],
                ),
                Panel(
                    "Months, anonymised, erased",
                    "Months dropped and overdue; sessions anonymised and erased in a day; erasures not finished.",
                    "short",
                    [
                        Query("sum(increase(chat_retention_months_dropped_total[1d]))", "months dropped"),
                        Query("max(chat_retention_months_overdue)", "months overdue"),
                        Query("sum(increase(chat_sessions_anonymised_total[1d]))", "anonymised"),
                        Query("sum(increase(chat_sessions_erased_total[1d]))", "erased"),
                        Query("max(chat_erasures_open)", "erasures open"),
                    ],
                ),
                Panel(
                    "Messages that Kafka had lost",
                    "Published again in a day, and looks for them by outcome.",
                    "short",
                    [
                        Query("sum(increase(chat_messages_republished_total[1d]))", "published again"),
                        Query("sum by (outcome) (increase(chat_recovery_looks_total[1d]))", "looks {{outcome}}"),
                    ],
                ),
                Panel(
                    "Certificates",
                    "For how long those last that processes use towards Kafka; nothing where there are none.",
                    "s",
                    [
                        Query(
                            "min by (job, setting) (chat_certificate_ends_timestamp_seconds) - time()",
                            "{{job}} {{setting}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)
