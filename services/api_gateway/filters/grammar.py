"""The text of a filter becomes a tree of terms, which know nothing yet of fields and their values. No I/O.

`status:(FAILED OR TIMEOUT) responseMs:>2000 -metadata.env:dev "text in the error"`: terms stand beside one another or
are joined by AND; OR binds less; `-` and NOT negate what follows them.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.tree import And, Leaf, Not, Or, Tree, leaves

MAX_CHARACTERS = 2_000
MAX_TERMS = 50
"""Values and texts count, not what joins them."""
MAX_DEPTH = 10

# A word, a text and a field end where something else begins, or the rest would silently be another term.
_GRAMMAR = r"""
start: either
?either: every (_OR every)*
?every: single (_AND? single)*
?single: (_NOT | _MINUS) single -> negated
       | "(" either ")"
       | FIELD test -> term
       | FIELD "(" test (_OR test)* ")" -> term
       | STRING -> says
test: COMPARISON? (WORD | STRING)

_OR.2: /OR(?![^\s()"])/
_AND.2: /AND(?![^\s()"])/
_NOT.2: /NOT(?![^\s()"])/
_MINUS.2: "-"
COMPARISON.2: /[<>]=?/
FIELD.1: /[A-Za-z][A-Za-z0-9_]*(\.([^\s():"]+|"([^"\\]|\\.)+"))?:(?=\S)/
STRING: /"([^"\\]|\\.)+"(?=[\s)]|\Z)/s
WORD: /[^\s()"]+(?=[\s)]|\Z)/
%ignore /\s+/
"""
_RANGE = ".."
_ESCAPED = re.compile(r'\\(["\\])')
_SLIPS = (
    (r'""', "A text has at least one character."),
    (r'"([^"\\]|\\.)*\Z', "This quote has no end."),
    (r"\)", "Nothing stands before this parenthesis, or it was never opened."),
    (r"(AND|OR)\b", "A term is missing before this word."),
    (r"(and|or|not)\b", "AND, OR and NOT are written in capitals."),
    (r"[(\"]", "A space is missing before this."),
    (r'[^\s()"]+[("]', "A value that has a quote or a parenthesis in it is quoted itself."),
)
"""What people write by mistake, and what to tell them."""
_AMONG_VALUES = re.compile(r':\((?:[^()"]|"(?:[^"\\]|\\.)+")+\Z')
"""What stands before a place among the values of one field."""
_NO_VALUE = re.compile(r"\w[^\s:]*:(?=\s|\Z)")


class Operator(StrEnum):
    """How a session's field is compared with a value; a range has two values, which both belong to it."""

    EQUAL = "="
    ABOVE = ">"
    FROM = ">="
    BELOW = "<"
    UP_TO = "<="
    RANGE = ".."


@dataclass(frozen=True, slots=True)
class Test:
    """A comparison as it is written: two values of a range, else one."""

    operator: Operator
    values: tuple[str, ...]
    quoted: bool
    position: int


@dataclass(frozen=True, slots=True)
class Term:
    """`field:value` or `field:(value OR value)`: the field fulfils one of the tests. `key` follows a dot."""

    field: str
    key: str | None
    tests: tuple[Test, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Says:
    """Quoted text that belongs to no field."""

    text: str
    position: int


Parsed = Tree[Term | Says]


def parse(text: str) -> Parsed:
    """Return the filter that the text is; raise InvalidFilter where it is none, or too large a one."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidFilter(f"It has more than the {MAX_CHARACTERS:,} characters that are allowed.", MAX_CHARACTERS)
    try:
        tree = cast(Parsed, _PARSER.parse(text))
    except (UnexpectedToken, UnexpectedCharacters) as error:
        raise _misplaced(text, error) from None
    measured = [(1 if isinstance(leaf, Says) else len(leaf.tests), level) for leaf, level in leaves(tree)]
    if (terms := sum(count for count, _ in measured)) > MAX_TERMS:
        raise InvalidFilter(f"It has {terms} values and texts; at most {MAX_TERMS} are allowed.", 0)
    if max(level for _, level in measured) > MAX_DEPTH:
        raise InvalidFilter(f"It is nested more than {MAX_DEPTH} levels deep.", 0)
    return tree


@v_args(inline=True)
class _Builder(Transformer[Token, Parsed]):
    """What each rule of the grammar makes."""

    def start(self, tree: Parsed) -> Parsed:
        return tree

    def either(self, *parts: Parsed) -> Parsed:
        return Or(parts)

    def every(self, *parts: Parsed) -> Parsed:
        return And(parts)

    def negated(self, part: Parsed) -> Parsed:
        return Not(part)

    def says(self, text: Token) -> Parsed:
        return Leaf(Says(_unquoted(text), _place(text)))

    def term(self, field: Token, *tests: Test) -> Parsed:
        name, _, key = field.removesuffix(":").partition(".")
        return Leaf(Term(name, _unquoted(key) or None, tests, _place(field)))

    def test(self, *tokens: Token) -> Test:
        value = tokens[-1]
        quoted = value.type == "STRING"
        operator = Operator(tokens[0]) if len(tokens) == 2 else Operator.EQUAL
        values: tuple[str, ...] = (_unquoted(value),)
        if operator is Operator.EQUAL and not quoted and _RANGE in value:
            low, _, high = value.partition(_RANGE)
            operator, values = Operator.RANGE, (low, high)
        return Test(operator, values, quoted, _place(tokens[0]))


_PARSER = Lark(_GRAMMAR, parser="lalr", transformer=_Builder())


def _unquoted(token: str) -> str:
    return _ESCAPED.sub(r"\1", token[1:-1]) if token.startswith('"') else str(token)


def _place(token: Token) -> int:
    return cast(int, token.start_pos)


def _misplaced(text: str, error: UnexpectedToken | UnexpectedCharacters) -> InvalidFilter:
    if not text.strip():
        return InvalidFilter("It is empty.", 0)
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return InvalidFilter("It ends too early: a term or a closing parenthesis is missing.", len(text))
    position = cast(int, error.pos_in_stream)
    rest = text[position:]
    expected = error.expected if isinstance(error, UnexpectedToken) else error.allowed or ()
    if "RPAR" in expected and ("FIELD" not in expected or _AMONG_VALUES.search(text, 0, position)):
        return InvalidFilter(
            "Write OR between the values of one field, and a parenthesis after the last: field:(a OR b).", position
        )
    if (bare := _NO_VALUE.match(rest)) is not None:
        follows = rest[bare.end() :].strip()
        wrong = "A value follows its colon at once." if follows else f"After {bare[0]} a value is missing."
        return InvalidFilter(wrong, position + bare.end())
    for pattern, explanation in _SLIPS:
        if re.match(pattern, rest, re.DOTALL):
            return InvalidFilter(explanation, position)
    return InvalidFilter(
        "This is no term: write field:value, join the values of a field by OR,"
        " or quote text to find it in error messages.",
        position,
    )
