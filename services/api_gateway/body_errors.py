"""What a client is told of the wrong fields of a body, in plain words. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from services.api_gateway.bodies import whole

MOST = 10
"""Wrong fields that are told of one body."""

_TOLD: Mapping[str, str] = {
    "json_invalid": "It is not valid JSON: {error}.",
    "missing": "It is missing.",
    "string_type": "It must be a string.",
    "bool_type": "It must be true or false.",
    "int_type": "It must be a whole number.",
    "float_type": "It must be a number.",
    "finite_number": "It must be a finite number.",
    "list_type": "It must be a list.",
    "dict_type": "It must be an object.",
    "model_type": "It must be an object.",
    "uuid_type": "It must be a UUID.",
    "uuid_parsing": "It must be a UUID.",
    "literal_error": "It must be {expected}.",
    "union_tag_not_found": "Its {discriminator} is missing.",
    "union_tag_invalid": "Its {discriminator} must be one of {expected_tags}.",
    "string_too_short": "It has too few characters: the least is {min_length}.",
    "string_too_long": "It has too many characters: the most is {max_length}.",
    "too_short": "It has too few entries: the least is {min_length}.",
    "too_long": "It has too many entries: the most is {max_length}.",
    "string_pattern_mismatch": "It must match {pattern}.",
    "greater_than": "It must be more than {gt}.",
    "greater_than_equal": "It must be at least {ge}.",
    "less_than": "It must be less than {lt}.",
    "less_than_equal": "It must be at most {le}.",
}
"""By pydantic's kind of error. None of them repeats what was sent: it may be a secret."""


def told(error: ValidationError, model: type[BaseModel]) -> list[dict[str, str]]:
    """Return the first wrong fields of a body that was to be `model`: the path of each, and a whole sentence."""
    found = error.errors(include_url=False, include_input=False)[:MOST]
    return [{"field": ".".join(map(str, one["loc"])) or "body", "message": _sentence(one, model)} for one in found]


def _sentence(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = ", ".join(_known(model, error["loc"][:-1]))
        return f"It is not known here; known are: {known}." if known else "It is not known here; nothing is."
    if kind == "value_error":
        said = str(context["error"]).rstrip(".")
        return f"{said[:1].upper()}{said[1:]}."
    if kind not in _TOLD:
        return f"{str(error['msg']).rstrip('.')}."
    return _TOLD[kind].format_map({name: whole(value) for name, value in context.items()})


def _known(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the fields of the object that the path of an error leads to."""
    models = [model]
    for part in path:
        fields = [field for one in models for field in one.model_fields.values() if field.alias == part]
        # Where there are several kinds of an object, the path has the name of the kind that was meant.
        models = [one for field in fields for one in _models(field.annotation)] or [
            one for one in models if _is_of_kind(one, part)
        ]
    return [field.alias or name for one in models for name, field in one.model_fields.items()]


def _is_of_kind(model: type[BaseModel], kind: int | str) -> bool:
    return "type" in model.model_fields and kind in get_args(model.model_fields["type"].annotation)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
