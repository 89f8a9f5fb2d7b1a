"""What a filter is, what it means, and how it is refused."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.api_gateway.filters.bounds import Bounds, started_within
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.grammar import MAX_CHARACTERS, MAX_DEPTH, MAX_TERMS, parse
from services.api_gateway.filters.meaning import FIELDS, Fails, Filter, Is, Range, names, understood
from services.api_gateway.filters.sql import condition
from services.api_gateway.filters.tree import And, Leaf, Not, Or
from services.contracts import FailureKind, SessionStatus


def meant(text: str) -> Filter:
    return understood(parse(text))


def is_(field: str, *values: str | int | UUID, key: str | None = None) -> Filter:
    return Leaf(Is(field, values, key=key))


def ranged(field: str, *ranges: Range) -> Filter:
    return Leaf(Is(field, ranges=ranges))


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


ID = UUID("01976f3e-8a00-7cc3-98c4-dc0c0c07398f")
A, B, C = is_("persona", "a"), is_("persona", "b"), is_("persona", "c")
FILTERS: list[tuple[str, Filter]] = [
    ("persona:a", A),
    ("persona:a persona:b", And((A, B))),
    ("persona:a AND persona:b", And((A, B))),
    ("persona:a OR persona:b persona:c", Or((A, And((B, C))))),
    ("(persona:a OR persona:b) persona:c", And((Or((A, B)), C))),
    ("-persona:a NOT persona:b", And((Not(A), Not(B)))),
    ("NOT (persona:a OR -persona:b)", Not(Or((A, Not(B))))),
    ("persona:(a OR b)", is_("persona", "a", "b")),
    ("  persona:a\n", A),
    ("status:(FAILED OR timeout)", is_("status", SessionStatus.FAILED, SessionStatus.TIMEOUT)),
    ("failure:http-5xx", is_("failure", FailureKind.HTTP_5XX)),
    ("persona:OR", is_("persona", "OR")),
    ("persona:-a", is_("persona", "-a")),
    ("persona:a:b", is_("persona", "a:b")),
    ('persona:("a b" OR "c(d" OR "*")', is_("persona", "a b", "c(d", "*")),
    ('persona:"a..b"', is_("persona", "a..b")),
    (f"resumedFrom:{ID}", is_("resumedFrom", ID)),
    ("user:ada template:t conversation:c", And((is_("user", "ada"), is_("template", "t"), is_("conversation", "c")))),
    ("attempts:3", is_("attempts", 3)),
    ("attempts:>3", ranged("attempts", Range(low=3, with_low=False))),
    ("responseMs:>=3", ranged("responseMs", Range(low=3))),
    ("responseMs:<3", ranged("responseMs", Range(high=3, with_high=False))),
    ("responseMs:<= 3", ranged("responseMs", Range(high=3))),
    ("responseMs:(1 OR 5..9 OR >20)", Leaf(Is("responseMs", (1,), (Range(5, 9), Range(low=20, with_low=False))))),
    ("endedAt:>=2026-11-22", ranged("endedAt", Range(low=at(22)))),
    ("endedAt:<2026-11-22T02:00:00+02:00", ranged("endedAt", Range(high=at(22), with_high=False))),
    ('lastActivityAt:>"2026-11-22 01:00"', ranged("lastActivityAt", Range(low=at(22, 1), with_low=False))),
    ("startedAt:2026-11-22..2026-11-23T00:00:00.000999Z", ranged("startedAt", Range(at(22), at(23)))),
    ("metadata.env:dev", is_("metadata", '"dev"', key="env")),
    ("metadata.a.b:(5 OR true)", is_("metadata", '"5"', "5", '"true"', "true", key="a.b")),
    ('metadata."my key":"5"', is_("metadata", '"5"', key="my key")),
    ("metadata.n:(1e999 OR 01 OR null)", is_("metadata", '"1e999"', '"01"', '"null"', key="n")),
    ('"Not found"', Leaf(Fails("Not found"))),
    (r'-"a \"b\" \d \\"', Not(Leaf(Fails('a "b" \\d \\')))),
]


@pytest.mark.parametrize(("text", "expected"), FILTERS, ids=[text for text, _ in FILTERS])
def test_a_filter_means(text: str, expected: Filter) -> None:
    assert meant(text) == expected


REFUSED = [
    (" ", 0, "It is empty."),
    ("timeout", 0, "no term"),
    ("persona:a timeout", 10, "no term"),
    ("persona:(a b)", 11, "Write OR between"),
    ("(persona:a b)", 11, "no term"),
    ("persona:(a AND b)", 11, "Write OR between"),
    ("persona: a", 8, "follows its colon"),
    ("persona:", 8, "^After persona: a value is missing.$"),
    ("status:FAILED (persona:a OR metadata.env: )", 41, "follows its colon"),
    ("status:FAILED -metadata.env: ", 28, "^After metadata.env: a value is missing.$"),
    ("persona:a OR", 12, "ends too early"),
    ("(persona:a", 10, "ends too early"),
    ("persona:a)", 9, "never opened"),
    ("persona:()", 9, "Nothing stands before"),
    ("OR persona:a", 0, "missing before this word"),
    ("persona:a or persona:b", 10, "capitals"),
    ('persona:a "b', 10, "no end"),
    ('""', 0, "at least one character"),
    ('persona:a"b"', 8, "is quoted itself"),
    ('"a"b', 0, "space is missing"),
    ("persona:a*", 8, "no wildcards"),
    ("metadata.env:d*", 13, "no wildcards"),
    ("persona:a personaId:b", 10, "no field personaId"),
    ("metadata:a", 0, "needs a key"),
    ("status.a:FAILED", 0, "no keys"),
    ("persona:>a", 8, "no order: write such as persona:value;"),
    ("persona:a..b", 8, "quote a value with"),
    ("status:>FAILED", 7, "write such as status:ACTIVE;"),
    ("startedAt:2026-11-22", 10, "write such as startedAt:>=2026-11-22 or"),
    ("metadata.n:>5", 11, "by equality only"),
    ("status:DONE", 7, "^status has no such value.$"),
    ("failure:broken", 8, "^failure has no such value.$"),
    ("attempts:-1", 9, "whole number"),
    ("attempts:\u0661", 9, "whole number"),
    ("attempts:99999999999", 9, "whole number"),
    ("attempts:>1..2", 9, "whole number"),
    ("responseMs:1..", 11, "whole number"),
    ("responseMs:9..5", 11, "before it begins"),
    ("endedAt:>yesterday", 8, "ISO 8601"),
    ("resumedFrom:x", 12, "UUID"),
    (f"persona:{'p' * 129}", 8, "1 to 128"),
    ("p" * (MAX_CHARACTERS + 1), MAX_CHARACTERS, "characters"),
    (" ".join(["attempts:(1 OR 2)"] * (MAX_TERMS // 2 + 1)), 0, "52 values"),
    ("-" * (MAX_DEPTH + 1) + "persona:a", 0, "nested"),
    ("-" * (MAX_CHARACTERS - 9) + "persona:a", 0, "nested"),
]


@pytest.mark.parametrize(("text", "position", "why"), REFUSED, ids=[text[:30] for text, _, _ in REFUSED])
def test_what_is_no_filter_is_refused_with_its_place(text: str, position: int, why: str) -> None:
    with pytest.raises(InvalidFilter, match=why) as caught:
        meant(text)
    assert caught.value.position == position
    assert caught.value.explanation.endswith(".")


def test_a_refusal_tells_what_is_allowed() -> None:
    for text, fields, allowed in [
        ("colour:red", FIELDS, ("status", "metadata.KEY")),
        ("user:bob", ["persona", "status"], ("persona", "status")),
        ("startedAt:2026-11-22", FIELDS, (">value", "value..value")),
    ]:
        with pytest.raises(InvalidFilter) as caught:
            understood(parse(text), fields)
        assert set(allowed) <= set(caught.value.allowed), text


@pytest.mark.parametrize("text", ["persona:>5", "status:>COMPLETED", "metadata.n:>5"])
def test_where_only_a_value_is_allowed_nothing_more_is_told(text: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        meant(text)
    assert caught.value.allowed == ()


def test_the_largest_filter_is_taken() -> None:
    assert parse(" ".join(["attempts:(1 OR 2)"] * (MAX_TERMS // 2)))
    assert parse("-" * MAX_DEPTH + "persona:a")
    assert parse("(" * 900 + "persona:a" + ")" * 900)


def test_a_filter_names_its_fields() -> None:
    assert names(meant("-(persona:a OR user:b)"), "user")
    assert not names(meant('persona:user "user:b"'), "user")


BOUNDS: list[tuple[str, Bounds]] = [
    ("startedAt:>=2026-11-05", Bounds(at(5), None)),
    ("startedAt:<2026-11-05", Bounds(None, at(5))),
    ("startedAt:>2026-11-05", Bounds(at(5).replace(microsecond=1000), None)),
    ("startedAt:2026-11-05..2026-11-06", Bounds(at(5), at(6).replace(microsecond=1000))),
    ("startedAt:>=2026-11-05 startedAt:<2026-11-09 startedAt:>=2026-11-07", Bounds(at(7), at(9))),
    ("startedAt:<2026-11-05 OR startedAt:<2026-11-09", Bounds(None, at(9))),
    ("startedAt:(>=2026-11-05 OR >=2026-11-03)", Bounds(at(3), None)),
    ("startedAt:>=2026-11-05 OR persona:a", Bounds()),
    ("startedAt:>=2026-11-05 (startedAt:<2026-11-09 OR persona:a)", Bounds(at(5), None)),
    ("-startedAt:>=2026-11-05", Bounds()),
    ("endedAt:>=2026-11-05", Bounds()),
    ("startedAt:<=9999-12-31T23:59:59.999999", Bounds(None, datetime(9999, 1, 1, 0, 0, 0, 1000, UTC))),
]


@pytest.mark.parametrize(("text", "expected"), BOUNDS, ids=[text for text, _ in BOUNDS])
def test_a_filter_bounds_the_start_of_its_sessions(text: str, expected: Bounds) -> None:
    assert started_within(meant(text)) == expected


def test_every_field_becomes_sql() -> None:
    for name, field in FIELDS.items():
        if name not in {"metadata", "startedAt"}:
            assert condition(ranged(name, Range(low=1)) if not field.equal else is_(name, "x")) is not None
