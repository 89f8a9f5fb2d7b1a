"""The plans with which PostgreSQL really ran what it was asked, told by auto_explain."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

TELL_PLANS = """
    LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
    SET auto_explain.log_format = json; SET client_min_messages = log
"""
PARTITIONED = ("chat_sessions_2", "messages_2", "session_events_2")


@dataclass
class Plans:
    """Every plan that PostgreSQL tells while it listens."""

    told: list[dict[str, Any]] = field(default_factory=list)

    def hear(self, _connection: object, message: Any) -> None:
        _, _, plan = message.message.partition("plan:\n")
        if plan:
            self.told.append(json.loads(plan)["Plan"])

    @asynccontextmanager
    async def of_one_call(self) -> AsyncIterator["Plans"]:
        self.told.clear()
        yield self
        await asyncio.sleep(0)  # the driver hands messages over in the loop's next turn
        assert self.told, "PostgreSQL told no plan."

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = list(self.told)
        while waiting:
            node = waiting.pop()
            waiting.extend(node.get("Plans", []))
            yield node

    def scanned(self) -> list[str]:
        """The partitions that were really looked into."""
        return [
            n["Relation Name"]
            for n in self.nodes()
            if n.get("Relation Name", "").startswith(PARTITIONED) and n["Actual Loops"]
        ]

    def read(self) -> float:
        """How many rows of partitions were looked at, kept or not."""
        return sum(
            (n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"]
            for n in self.nodes()
            if n.get("Relation Name", "").startswith(PARTITIONED)
        )

    def assert_indexed(self) -> None:
        """Fail where a partition was read from its beginning; that of a month to come is empty."""
        scans = [n for n in self.nodes() if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
        partitions = {n["Relation Name"] for n in scans if n["Relation Name"].startswith(PARTITIONED)}
        assert {name for name in partitions if not name.endswith("_2026_12")} == set()


def plans_of(engine: AsyncEngine) -> Plans:
    plans = Plans()

    def listen(connection: Any, _record: object) -> None:
        connection.driver_connection.add_log_listener(plans.hear)
        connection.run_async(lambda driver: driver.execute(TELL_PLANS))

    event.listen(engine.sync_engine, "connect", listen)
    return plans
