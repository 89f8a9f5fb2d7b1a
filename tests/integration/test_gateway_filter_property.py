"""Any filter finds in PostgreSQL exactly the sessions that Python finds with it: among rows, and among changes."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from services.api_gateway.database import Database
from services.api_gateway.filters.grammar import parse
from services.api_gateway.filters.meaning import EVERYTHING, Filter, understood
from services.api_gateway.filters.sql import condition, condition_of, form_of, values_of
from services.api_gateway.listing import Page
from services.api_gateway.live.frames import event
from services.api_gateway.live.matching import Matcher
from services.api_gateway.live.recent import Told
from services.api_gateway.reads import SessionReads
from services.api_gateway.selection import Selection
from services.contracts import FailureKind, SessionStatus
from services.database.driver import compiled
from services.database.engine import build_engine
from services.database.partitions import create_partitions, id_at
from services.database.tables import chat_sessions

Row = dict[str, Any]
START = datetime(2026, 11, 1, tzinfo=UTC)
IDS = ("a", "B", "b c", "x:y", 'q"(', "back\\slash", "OR", "-a", "1..2", "*", "ü", "d)e")
MESSAGES = (None, "It broke.", "it BROKE 100%", "a_b\\c/d", 'He said "no".', "É (1)", "5")
ENTRIES = ("dev", "5", 5, 5.0, 0.1, -3, True, False, None, [], {"a": 1}, "", "true", "[]", "1e2", 100, "x y")
KEYS = ("env", "a.b", 'odd "key": ', "5", "é")
TIMES = [START + timedelta(hours=number, microseconds=number % 3) for number in range(12)]
NUMBERS = (0, 1, 2, 3, 100, 2**31 - 1)
UUIDS = [UUID(int=number) for number in range(3)]


def rows(dice: random.Random) -> list[Row]:
    return [_row(dice, number) for number in range(400)]


def _row(dice: random.Random, number: int) -> Row:
    started = dice.choice(TIMES).replace(microsecond=0) + timedelta(milliseconds=dice.randrange(3))
    session_id = UUID(int=id_at(started).int | 7 << 76 | 1 << 63 | number)
    return {
        "id": session_id, "session_id": session_id, "started_at": started, "version": 1,
        "conversation_id": dice.choice(IDS), "persona_id": dice.choice(IDS), "user_id": dice.choice(IDS),
        "status": dice.choice(list(SessionStatus)), "ended_at": dice.choice([None, *TIMES]),
        "last_activity_at": dice.choice(TIMES), "error_message": dice.choice(MESSAGES),
        "metadata": {key: dice.choice(ENTRIES) for key in KEYS if dice.random() < 0.5} | _tags(dice),
        "failure_kind": dice.choice([None, *FailureKind]), "attempts": dice.choice(NUMBERS),
        "response_ms": dice.choice([None, *NUMBERS]), "resumed_from": dice.choice([None, *UUIDS]),
        "template_id": dice.choice([None, *IDS]), "template_version": dice.choice([None, *NUMBERS]),
    }  # fmt: skip


def _tags(dice: random.Random) -> Row:
    return dice.choice([{}, {"tags": dice.sample(IDS, dice.randrange(4))}, {"tags": dice.choice([*ENTRIES, *IDS])}])


def as_told(row: Row) -> Told:
    """The change that tells this session, which has just become what it is."""
    columns = {chat_sessions.c[name].name: value for name, value in row.items()}
    frame = event("session", columns)
    return Told(str(row["session_id"]), row["user_id"], 1, row["status"], SessionStatus.ACTIVE, frame)


def held(sample: "Sample", row: Row) -> bool:
    """Whether it held while the session was ACTIVE."""
    gone = dict.fromkeys(("ended_at", "error_message", "failure_kind", "response_ms"))
    return sample.holds({**row, **gone, "status": SessionStatus.ACTIVE})


@dataclass(frozen=True)
class Sample:
    """A filter as text, and whether a row is to be found with it."""

    text: str
    holds: Callable[[Row], bool] = field(repr=False)
    joint: str = ""

    def within(self, joint: str) -> str:
        """The text as a part of AND, OR or NOT, in parentheses where it would else mean something else."""
        loose = {"": (), "AND": ("OR",), "OR": (), "NOT": ("OR", "AND")}[joint]
        return f"({self.text})" if self.joint in loose else self.text


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def bare(value: str) -> bool:
    return bool(value) and not set(value) & set(' ()"*') and ".." not in value


@st.composite
def words(draw: st.DrawFn, value: str) -> str:
    """A value as it may be written."""
    return value if bare(value) and draw(st.booleans()) else quoted(value)


@st.composite
def equalities(draw: st.DrawFn) -> Sample:
    name, column, values = draw(st.sampled_from([
        ("status", "status", list(SessionStatus)), ("persona", "persona_id", IDS), ("user", "user_id", IDS),
        ("conversation", "conversation_id", IDS), ("failure", "failure_kind", list(FailureKind)),
        ("template", "template_id", IDS), ("resumedFrom", "resumed_from", UUIDS),
    ]))  # fmt: skip
    some = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    texts = [draw(words(str(value))) for value in some]
    return Sample(f"{name}:{grouped(draw, texts)}", lambda row: row[column] in some)


@st.composite
def tags(draw: st.DrawFn) -> Sample:
    some = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3))

    def tagged(row: Row) -> bool:
        own = row["metadata"].get("tags")
        return bool(own in some if isinstance(own, str) else isinstance(own, list) and set(own) & set(some))

    return Sample(f"tag:{grouped(draw, [draw(words(value)) for value in some])}", tagged)


def grouped(draw: st.DrawFn, texts: list[str]) -> str:
    return f"({' OR '.join(texts)})" if len(texts) > 1 or draw(st.booleans()) else texts[0]


@st.composite
def comparisons(draw: st.DrawFn) -> Sample:
    name, column = draw(st.sampled_from([
        ("responseMs", "response_ms"), ("attempts", "attempts"), ("templateVersion", "template_version"),
        ("startedAt", "started_at"), ("endedAt", "ended_at"), ("lastActivityAt", "last_activity_at"),
    ]))  # fmt: skip
    timed = name.endswith("At")
    tests = draw(st.lists(ordered(name, timed), min_size=1, max_size=2))
    text = f"{name}:{grouped(draw, [test.text for test in tests])}"
    return Sample(text, lambda row: row[column] is not None and any(test.holds(row[column]) for test in tests))


@st.composite
def ordered(draw: st.DrawFn, name: str, timed: bool) -> Sample:
    values: Any = TIMES if timed else NUMBERS
    a, b = sorted((draw(st.sampled_from(values)), draw(st.sampled_from(values))))
    low, high = str(a).replace(" ", "T"), str(b).replace(" ", "T")
    if name == "startedAt":
        a, b = a.replace(microsecond=0), b.replace(microsecond=0)
    samples = [
        Sample(f">{low}", lambda value: value > a), Sample(f">={low}", lambda value: value >= a),
        Sample(f"<{high}", lambda value: value < b), Sample(f"<={high}", lambda value: value <= b),
        Sample(f"{low}..{high}", lambda value: a <= value <= b),
    ]  # fmt: skip
    return draw(st.sampled_from(samples + ([] if timed else [Sample(low, lambda value: value == a)])))


@st.composite
def entries(draw: st.DrawFn) -> Sample:
    key = draw(st.sampled_from(KEYS))
    value = draw(st.sampled_from(["dev", "5", "5.0", "0.1", "-3", "true", "false", "1e2", "x y", "100", "nothing"]))
    word = draw(words(value))
    meant: list[Any] = [value]
    if word == value and value not in {"dev", "x y", "nothing"}:
        meant.append(json.loads(value))
    name = f'metadata."{key.replace(chr(34), chr(92) + chr(34))}"' if not key.isalnum() else f"metadata.{key}"
    return Sample(f"{name}:{word}", lambda row: any(same(row["metadata"].get(key), one) for one in meant))


def same(entry: Any, value: Any) -> bool:
    """Whether they are the same in JSON, where a number is no truth value."""
    kinds = [bool if isinstance(one, bool) else str if isinstance(one, str) else float for one in (entry, value)]
    return kinds[0] is kinds[1] and entry == value


@st.composite
def says(draw: st.DrawFn) -> Sample:
    text = draw(st.sampled_from(["broke", "BROKE", "%", "_", "\\", "/", '"no"', "5", " ", "é", "(1)", "nothing"]))
    return Sample(quoted(text), lambda row: text.lower() in (row["error_message"] or "").lower())


@st.composite
def joined(draw: st.DrawFn, parts: st.SearchStrategy[Sample]) -> Sample:
    kind = draw(st.sampled_from(["AND", "OR", "NOT"]))
    if kind == "NOT":
        one = draw(parts)
        sign = draw(st.sampled_from(["-", "NOT ", "- "]))
        return Sample(sign + one.within("NOT"), lambda row: not one.holds(row))
    some = draw(st.lists(parts, min_size=2, max_size=3))
    between = " OR " if kind == "OR" else draw(st.sampled_from([" ", " AND ", "\n"]))
    test = any if kind == "OR" else all
    return Sample(
        between.join(one.within(kind) for one in some), lambda row: test(one.holds(row) for one in some), kind
    )


NO_FILTER = Sample("", lambda row: True)
FILTERS = st.just(NO_FILTER) | st.recursive(
    equalities() | comparisons() | entries() | tags() | says(), joined, max_leaves=8
)


def meaning(text: str) -> Filter:
    return understood(parse(text)) if text else EVERYTHING


def test_any_filter_finds_what_python_finds(postgres_url: str) -> None:
    written = rows(random.Random(7))
    engine = build_engine(postgres_url, pre_ping=False)
    database = Database(engine)
    reads = SessionReads(database)

    async def prepare() -> None:
        async with engine.begin() as connection:
            await create_partitions(connection, START)
            await connection.execute(insert(chat_sessions), written)

    async def found(text: str) -> set[UUID]:
        tree = meaning(text)
        wanted = select(chat_sessions.c.session_id)
        written_once = compiled(wanted.where(condition_of(form_of(tree))))
        values = {f"v{number}": value for number, value in enumerate(values_of(tree))}
        ids = {row[0] for row in await database.fetch(written_once, **values)}
        async with database.statements() as connection:
            assert set(await connection.scalars(wanted.where(condition(tree)))) == ids
        assert (await reads.page(Selection(None, tree), Page(1)))[1] == len(ids)
        return ids

    changes = [as_told(row) for row in written]
    ended = [row for row in written if row["status"].ended]

    async def told(text: str) -> tuple[set[UUID], set[UUID]]:
        """What the filter finds of the changes that tell these sessions: now, and before their end."""
        said = await Matcher(database, meaning(text)).find(changes)
        ids = [row["session_id"] for row in written]
        now = {session_id for session_id, one in zip(ids, said, strict=True) if one.holds}
        return now, {session_id for session_id, one in zip(ids, said, strict=True) if one.held}

    with asyncio.Runner() as runner:
        runner.run(prepare())

        @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @example(NO_FILTER)
        @given(FILTERS)
        def compare(sample: Sample) -> None:
            expected = {row["session_id"] for row in written if sample.holds(row)}
            note(f"{len(expected)} of {len(written)} rows")
            assert runner.run(found(sample.text)) == expected
            before = {row["session_id"] for row in ended if held(sample, row)}
            assert runner.run(told(sample.text)) == (expected, before)

        compare()
        runner.run(engine.dispose())
