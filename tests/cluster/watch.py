"""What every process says of itself, once a second: whether it is ready, and its lag."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

READY = "ready"
NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment: `ready`, `no answer` or its problems; its records of lag by partition of a topic."""

    seconds: float
    state: str
    lag: dict[tuple[str, str], float]

    @property
    def total_lag(self) -> float:
        return sum(self.lag.values())


@dataclass(slots=True)
class Watch:
    """Watches the processes of `urls`; more may come and go. Seconds count from its beginning."""

    urls: dict[str, str]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        return time.monotonic() - self.began

    def last(self, name: str) -> Sample:
        return self.samples[name][-1]

    def peak_lag(self, name: str, since: float = 0.0) -> float:
        return max((sample.total_lag for sample in self.samples[name] if sample.seconds >= since), default=0.0)

    def states(self, name: str, since: float, until: float) -> set[str]:
        return {sample.state for sample in self.samples[name] if since <= sample.seconds <= until}

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Return as soon as the condition holds; fail, with the story so far, after `seconds`."""
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, f"Not within {seconds} s: {what}.\n{self.story()}"
            await asyncio.sleep(0.2)

    async def until_calm(self) -> None:
        """Return once every process is ready and without lag."""

        def calm() -> bool:
            return all(
                name in self.samples and self.last(name).state == READY and self.last(name).total_lag == 0
                for name in self.urls
            )

        await self.until(calm, "every process is ready and without lag")

    def story(self) -> str:
        """What each process said, where it changed, and its peak of lag."""
        lines = []
        for name, samples in self.samples.items():
            told, before = [], None
            for sample in samples:
                if sample.state != before:
                    told.append(f"{sample.seconds:.0f} s {sample.state}")
                before = sample.state
            lines.append(f"  {name}: lag at most {self.peak_lag(name):.0f}; {'; '.join(told)}")
        return "\n".join(lines)

    async def look(self, client: httpx.AsyncClient) -> None:
        """Take one sample of each process."""
        await asyncio.gather(*(self._look_at(client, name, url) for name, url in list(self.urls.items())))

    async def _look_at(self, client: httpx.AsyncClient, name: str, url: str) -> None:
        moment, lag = self.now(), {}
        try:
            ready = await client.get(f"{url}/health/ready")
            state = READY if ready.status_code == 200 else "; ".join(ready.json()["problems"].values())
            lag = _lag((await client.get(f"{url}/metrics")).text)
        except httpx.TransportError:
            state = NO_ANSWER
        self.samples.setdefault(name, []).append(Sample(moment, state, lag))


@asynccontextmanager
async def watching(urls: dict[str, str]) -> AsyncIterator[Watch]:
    """Take samples each second while the block runs."""
    watch = Watch(dict(urls))

    async def go_on() -> None:
        async with httpx.AsyncClient(timeout=0.9, trust_env=False) as client:
            while True:
                await asyncio.gather(watch.look(client), asyncio.sleep(1))

    task = asyncio.create_task(go_on())
    try:
        yield watch
    finally:
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(end, asyncio.CancelledError):
            raise end


def _lag(exposed: str) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["topic"], sample.labels["partition"]): sample.value
        for family in text_string_to_metric_families(exposed)
        if family.name == "chat_consumer_lag_records"
        for sample in family.samples
    }
