"""Entity tags of sessions, and what requests make of them (RFC 9110, 13).

A tag is `"VERSION-CONTENT"`: the session's version, which every event that changes the session raises, and a hash of
all that is told of it, in which also late events show, and data that was erased. `durationMs` is left out: until the
session ends it would make a new tag of every read.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from services.api_gateway.json_text import as_json
from services.api_gateway.problems import invalid_parameter

MAX_CHARACTERS = 1024

_TAG = r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_LIST = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*")
_ONE = re.compile(_TAG)
_ANY = frozenset({"*"})
"""Not in quotes: every tag."""


def entity_tag(session: Mapping[str, Any]) -> str:
    """Return the tag of a session with all that is told of it."""
    content = as_json({name: value for name, value in session.items() if name != "durationMs"})
    return f'"{session["version"]}-{hashlib.blake2b(content, digest_size=8).hexdigest()}"'


def is_known(if_none_match: str | None, tag: str) -> bool:
    """Tell whether the client has what the tag stands for; not if the header is no list of tags.

    Weak tags count: proxies that compress make them of ours.
    """
    tags = _tags(if_none_match)
    return tags is not None and (tags is _ANY or tag.strip('"') in tags)


def is_current(if_match: str | None, version: int) -> bool:
    """Tell whether the client speaks of this version, or of none; Problem 400 for a header that is no list of tags.

    Only the version in a tag counts, or a version alone (`"3"`): it is the session that must not have moved, not the
    bytes that were told of it. So weak tags count too.
    """
    tags = _tags(if_match)
    if tags is None and if_match is not None:
        expected = 'It must be *, or entity tags such as "3-0a1b2c3d4e5f6071", with commas between.'
        raise invalid_parameter("If-Match", expected)
    return tags is None or tags is _ANY or str(version) in {tag.partition("-")[0] for tag in tags}


def _tags(value: str | None) -> frozenset[str] | None:
    """Return the tags of a list; None where there is none."""
    if value is None or len(value) > MAX_CHARACTERS:
        return None
    value = value.strip()
    if value == "*":
        return _ANY
    return frozenset(_ONE.findall(value)) if _LIST.fullmatch(value) else None
