"""Explain what is wrong with a recipe: the key, its value, what is allowed."""

import difflib
import inspect
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


class ConfigError(ValueError):
    """An unusable recipe or setting. One line: the file and key, and what is allowed."""


SENTENCES = {  # of pydantic's kinds of errors, after the value
    **dict.fromkeys(("int", "int_from_float"), "is not a whole number. Give one, as in 5"),
    "float": "is not a number. Give one, as in 0.5",
    "finite_number": "is not a finite number. Give one, as in 0.5",
    "bool": "is not true or false. Give one of them",
    **dict.fromkeys(("tuple", "list"), "is not a list. Give one, as in [1, 2]"),
    **dict.fromkeys(("dict", "model"), "has no keys. Give them as {{key: value}}"),
    "literal_error": "is unknown. Choose {expected}",
    "greater_than": "is too small. Give more than {gt:g}",
    "greater_than_equal": "is too small. Give at least {ge:g}",
    "less_than": "is too large. Give less than {lt:g}",
    "less_than_equal": "is too large. Give at most {le:,.10g}",
    "too_short": "is too short. Give {min_length} values",
    "too_long": "is too long. Give {max_length} values",
}


def explain(error: ValidationError, schema: type[BaseModel], key: str = "") -> str:
    """Return the first error that pydantic found as one line: key, value, what is allowed."""
    first, place = _first_error(error, schema)
    path = [str(part) for part in place]
    dotted = ".".join([key, *path] if key else path)
    if first["type"] == "extra_forbidden" and ":" in path[-1]:  # {name:linear} is a key of YAML
        spaced = path[-1].replace(":", ": ", 1)
        return f"unknown key {dotted}. Put a space after the colon: {{{spaced}}}."
    if first["type"] == "extra_forbidden":
        section: Any = schema
        for name in path[:-1]:
            section = section.model_fields[name].annotation
        if not section.model_fields:
            return f"unknown key {dotted}. {section.__name__} has no options."
        everywhere = sorted(dotted_keys(schema, key))
        same_name = [k for k in everywhere if k.endswith(f".{path[-1]}")]
        hint = did_you_mean(dotted, everywhere, same_name)
        return f"unknown key {dotted}{hint} Known keys: {', '.join(section.model_fields)}."
    if first["type"] == "missing":
        return f"{dotted} is missing. Add it."
    given = "" if isinstance(first["input"], dict) else f" = {repr(first['input'])[:100]}"
    if sentence := SENTENCES.get(first["type"].partition("_parsing")[0].partition("_type")[0]):
        return f"{dotted}{given} {sentence.format(**first.get('ctx', {}))}."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{dotted}{given}: {message[0].lower()}{message[1:]}."


def _first_error(error: ValidationError, schema: type[BaseModel]) -> tuple[Any, list[int | str]]:
    """Return the first error and its place.

    If a value fits no alternative of a union, there is an error for each alternative, which is
    named in the place, after the key. The error deepest within the value is the most specific.
    """
    errors = error.errors()
    place, depth, annotation = errors[0]["loc"], 0, schema
    while depth < len(place) and inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(place[depth]))
        annotation, depth = field and field.annotation, depth + 1
    alternatives = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) not in (Union, UnionType) or len(alternatives) < 2:
        return errors[0], list(place)
    alike = [each for each in errors if each["loc"][:depth] == place[:depth]]
    first = max(alike, key=lambda each: len(each["loc"]))
    return first, [*place[:depth], *first["loc"][depth + 1 :]]


def dotted_keys(schema: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Yield every key of a schema, dotted."""
    for name, field in schema.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        yield key
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from dotted_keys(field.annotation, key)


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return `'ddmp' is unknown; did you mean ddpm? Known: …`."""
    return f"{name!r} is unknown{did_you_mean(name, known)} Known: {', '.join(sorted(known))}."


def did_you_mean(name: str, known: Iterable[str], likely: Sequence[str] = ()) -> str:
    """Return `; did you mean …?` with the likely names or the nearest known one, or a full stop."""
    names = likely or difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {' or '.join(names)}?" if names else "."
