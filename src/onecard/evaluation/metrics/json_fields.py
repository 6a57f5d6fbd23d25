"""Metrics of an answer that should be JSON: its fields against the reference's, and a schema.

For receipts, forms and screenshots. Order never counts: neither of keys nor of list items.
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from onecard.errors import DataError

MAX_DEPTH = 100
FENCE = re.compile(r"```(?:json|JSON)?\s*\n?(.*?)```", re.DOTALL)
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int, float),
}
NOTES = "$schema $id $comment $defs definitions title description default examples format"
"""Keywords that demand nothing; `format` is a note too, as in the standard's default."""
DEMANDS = (
    "$ref type const enum allOf anyOf oneOf not required properties patternProperties "
    "additionalProperties propertyNames minProperties maxProperties items prefixItems minItems "
    "maxItems uniqueItems contains minLength maxLength pattern minimum maximum exclusiveMinimum "
    "exclusiveMaximum multipleOf"
)
KEYWORDS = frozenset(f"{NOTES} {DEMANDS}".split())

Field = tuple[str, str]
"""(path with dots, value as text)."""


# Fields


def parse_json(answer: str) -> Any:
    """The object or list that an answer is or holds, also in a code fence or after words; None
    where there is none. Of a duplicate key the last value counts.

    >>> parse_json('Here it is:\\n```json\\n{"total": 3}\\n```'), parse_json("no JSON")
    ({'total': 3}, None)
    """
    fenced = FENCE.search(answer)
    for candidate in (answer, fenced[1] if fenced else ""):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value
    decoder = json.JSONDecoder()
    for match in list(re.finditer(r"[{\[]", answer))[:MAX_DEPTH]:
        try:
            value, _ = decoder.raw_decode(answer, match.start())
        except (ValueError, RecursionError):
            continue
        return value
    return None


def fields_of(value: Any) -> Counter[Field]:
    """The leaves of a JSON value with their paths, as often as they stand; numbers of list items
    are no part of a path. null and empty texts count as absent.

    >>> sorted(fields_of({"menu": [{"name": "Tea ", "price": 2.0}], "note": None}))
    [('menu.name', 'tea'), ('menu.price', '2')]
    """
    fields: Counter[Field] = Counter()
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    while stack:
        path, each, depth = stack.pop()
        if depth <= MAX_DEPTH and isinstance(each, Mapping):
            for key, inner in each.items():
                name = _plain(str(key))
                stack.append((f"{path}.{name}" if path else name, inner, depth + 1))
        elif depth <= MAX_DEPTH and isinstance(each, list):
            stack += [(path, inner, depth + 1) for inner in each]
        elif text := _leaf(each):
            fields[path, text] += 1
    return fields


def _leaf(value: Any) -> str:
    """A number as text, so that 12.0 and "12" are one; a text in lower case with single spaces."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        whole = math.isfinite(value) and float(value).is_integer() and abs(value) < 1e15
        return str(int(value)) if whole else repr(value)
    return _plain(str(value))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def field_counts(prediction: Any, reference: Any) -> tuple[int, int, int]:
    """(common fields, fields of the prediction, of the reference): their sums over items give the
    F1 of a set, by stats.ratio_interval(2 x common, predicted + expected)."""
    predicted, expected = fields_of(prediction), fields_of(reference)
    common = sum((predicted & expected).values())
    return common, sum(predicted.values()), sum(expected.values())


def field_f1(prediction: Any, reference: Any) -> float:
    """F1 of the fields of one item: 2 common / (predicted + expected), where a field is right when
    path and value are (the measure of Donut's authors, Kim et al. 2022). Texts are parsed; a
    prediction that holds no JSON has no field, and a reference that holds none gives nan.

    >>> field_f1('{"total": "5", "tax": "1"}', '{"total": 5, "date": "x"}')
    0.5
    """
    values = [
        parse_json(each) if isinstance(each, str) else each for each in (prediction, reference)
    ]
    common, predicted, expected = field_counts(*values)
    if values[1] is None:
        return math.nan
    if not predicted + expected:
        return float(type(values[0]) is type(values[1]))
    return 2 * common / (predicted + expected)


# Schema


def schema_faults(value: Any, schema: Any) -> list[str]:
    """Where a value breaks a JSON schema: "total: 3 is no string"; empty where it is valid.

    The keywords of validation are those of JSON Schema 2020-12 without references to other files,
    conditions (if, dependent...) and unevaluated...; numbers of draft 4's exclusive bounds too.
    Raises DataError for a schema that asks for more.
    """
    try:
        return list(_faults(value, schema, schema, "", ()))
    except RecursionError:
        return ["the answer is nested too deeply"]
    except (TypeError, AttributeError, ValueError, ArithmeticError, re.error) as fault:
        why = f"a keyword has a value of the wrong kind: {fault}"[:200]
        raise _bad_schema("", why) from None


def _faults(
    value: Any, schema: Any, root: Any, place: str, references: tuple[str, ...]
) -> Iterator[str]:
    if schema is True or schema == {}:
        return
    where = place or "the answer"
    if schema is False:
        yield f"{where}: it may not be there"
        return
    if not isinstance(schema, dict) or len(references) > MAX_DEPTH:
        raise _bad_schema(place, "it is no object, or refers to itself")
    _require_known(schema, place)
    if isinstance(reference := schema.get("$ref"), str):
        if reference in references:
            raise _bad_schema(place, f"{reference} refers to itself")
        target = _referred(root, reference)
        yield from _faults(value, target, root, place, (*references, reference))
    if "type" in schema and not any(_is_type(value, kind) for kind in _listed(schema["type"])):
        kinds = " or ".join(map(str, _listed(schema["type"])))
        yield f"{where}: {_shown(value)} is no {kinds}"
        return
    if "const" in schema and not _equal(value, schema["const"]):
        yield f"{where}: {_shown(value)} is not {_shown(schema['const'])}"
    if "enum" in schema and not any(_equal(value, each) for each in _listed(schema["enum"])):
        yield f"{where}: {_shown(value)} is none of {_shown(schema['enum'])}"
    yield from _combinations(value, schema, root, place, references)
    if isinstance(value, dict):
        yield from _object_faults(value, schema, root, place)
    elif isinstance(value, list):
        yield from _list_faults(value, schema, root, place)
    elif isinstance(value, str):
        yield from _text_faults(value, schema, where)
    elif _is_type(value, "number"):
        yield from _number_faults(value, schema, where)


def _combinations(
    value: Any, schema: dict[str, Any], root: Any, place: str, references: tuple[str, ...]
) -> Iterator[str]:
    def n_valid(name: str) -> int:
        parts = _listed(schema[name])
        return sum(not any(_faults(value, each, root, place, references)) for each in parts)

    where = place or "the answer"
    for each in _listed(schema.get("allOf", [])):
        yield from _faults(value, each, root, place, references)
    if "anyOf" in schema and not n_valid("anyOf"):
        yield f"{where}: it fits none of anyOf"
    if "oneOf" in schema and (n := n_valid("oneOf")) != 1:
        yield f"{where}: it fits {n} of oneOf, not one"
    if "not" in schema and not any(_faults(value, schema["not"], root, place, references)):
        yield f"{where}: it fits what it must not"


def _object_faults(
    value: dict[str, Any], schema: dict[str, Any], root: Any, place: str
) -> Iterator[str]:
    where = place or "the answer"
    yield from (
        f"{where}: {name} is missing" for name in schema.get("required", ()) if name not in value
    )
    yield from _count_faults(
        len(value), schema, ("minProperties", "maxProperties"), "fields", where
    )
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, inner in value.items():
        below = f"{place}.{name}" if place else name
        known = False
        if name in properties:
            known = True
            yield from _faults(inner, properties[name], root, below, ())
        for pattern, rule in patterns.items():
            if re.search(pattern, name):
                known = True
                yield from _faults(inner, rule, root, below, ())
        if not known and "additionalProperties" in schema:
            yield from _faults(inner, schema["additionalProperties"], root, below, ())
        if "propertyNames" in schema:
            yield from _faults(name, schema["propertyNames"], root, below, ())


def _list_faults(value: list[Any], schema: dict[str, Any], root: Any, place: str) -> Iterator[str]:
    where = place or "the answer"
    yield from _count_faults(len(value), schema, ("minItems", "maxItems"), "items", where)
    first = schema.get("prefixItems", [])
    for i, inner in enumerate(value):
        rule = first[i] if i < len(first) else schema.get("items", True)
        yield from _faults(inner, rule, root, f"{place}[{i}]", ())
    if schema.get("uniqueItems") and any(
        _equal(a, b) for i, a in enumerate(value) for b in value[:i]
    ):
        yield f"{where}: an item stands twice"
    if "contains" in schema and all(
        any(_faults(inner, schema["contains"], root, place, ())) for inner in value
    ):
        yield f"{where}: it lacks the item that it must contain"


def _text_faults(value: str, schema: dict[str, Any], where: str) -> Iterator[str]:
    yield from _count_faults(len(value), schema, ("minLength", "maxLength"), "characters", where)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {_shown(value)} does not match {schema['pattern']}"


def _number_faults(value: float, schema: dict[str, Any], where: str) -> Iterator[str]:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if not low <= value <= high:
        yield f"{where}: {value} is not between {low} and {high}"
    # draft 4 wrote true beside the bound, later ones the bound itself
    least: Any = low if above is True else above
    most: Any = high if below is True else below
    if _is_type(least, "number") and value <= least:
        yield f"{where}: {value} is not above {least}"
    if _is_type(most, "number") and value >= most:
        yield f"{where}: {value} is not below {most}"
    if step := schema.get("multipleOf"):
        times = value / step
        if not math.isclose(times, round(times), rel_tol=0, abs_tol=1e-9):
            yield f"{where}: {value} is no multiple of {step}"


def _count_faults(
    n: int, schema: dict[str, Any], names: tuple[str, str], noun: str, where: str
) -> Iterator[str]:
    low, high = schema.get(names[0], 0), schema.get(names[1], math.inf)
    if not low <= n <= high:
        yield f"{where}: {n} {noun}, where {low} to {high} may be"


def _require_known(schema: dict[str, Any], place: str) -> None:
    unknown = [key for key in schema if key not in KEYWORDS and not key.startswith("x-")]
    if unknown:
        raise _bad_schema(place, f"{', '.join(unknown[:5])} cannot be checked here")


def _referred(root: Any, reference: str) -> Any:
    """The part of the schema that "#/$defs/name" means."""
    target = root
    if not reference.startswith("#"):
        raise _bad_schema(reference, "it refers to another file")
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or name not in target:
            raise _bad_schema(reference, "it refers to nothing")
        target = target[name]
    return target


def _bad_schema(place: str, why: str) -> DataError:
    return DataError(
        f"the JSON schema is not usable at {place or 'its top'}",
        why=why,
        fix="use the keywords of JSON Schema 2020-12 without conditions and outer references",
    )


def _is_type(value: Any, kind: Any) -> bool:
    if kind not in TYPES or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])


def _equal(one: Any, other: Any) -> bool:
    """JSON's equality: True is not 1, 1.0 is 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
