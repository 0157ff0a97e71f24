"""The one exception whose message is written for the user, and tables of many such messages."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class DataError(Exception):
    """Something the user can fix: a file, a header, a value in the config.

    The message names the file or key, what was expected, what was found and what to do.
    """


def raise_all(problems: Sequence[str], heading: str) -> None:
    """Raise one DataError that lists every problem; do nothing when there is none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{heading}: {count}\n" + "\n".join(f"  {line}" for line in problems))


Problems = Mapping[str, Sequence[str]]  # by id of the case
WHOLE = "(dataset)"  # in place of an id: what is wrong with all cases together


def merged_problems(*found: Problems) -> dict[str, list[str]]:
    """Problems from several places, by id; those of the dataset as a whole come first."""
    names = sorted({name for each in found for name in each}, key=lambda n: (n != WHOLE, n))
    return {name: [line for each in found for line in each.get(name, ())] for name in names}


def table_of(problems: Problems, source: Path, n_cases: int) -> str:
    """One line for each problem, behind the id of its case."""
    lines = [(name, line) for name, own in problems.items() for line in own]
    width = max(len(name) for name in problems)
    bad = len(problems.keys() - {WHOLE})
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return "\n".join(
        [
            f"{source}: {count}, in {bad} of {n_cases} cases",
            *(f"  {name:{width}}  {line}" for name, line in lines),
        ]
    )


def rows_of(problems: Problems) -> list[dict[str, str]]:
    """The same for a CSV: id, file, problem."""
    rows = []
    for name, lines in problems.items():
        for line in lines:
            file, _, problem = line.partition(": expected ")
            rows.append({"id": name, "file": file, "problem": f"expected {problem}"})
    return rows


# The words of a user for the kinds of mistakes that pydantic finds; {} is filled from its context.
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a section with keys",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "missing": "a value",
    "model_type": "a section with keys",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_type": "text",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} of them",
    "tuple_type": "a list",
    "value_error": "{error}",
}
# Pydantic names the kind of each branch of a union among the keys: not keys of a file.
KIND = r"constrained-\w+|function-\w+\(.*\)|int|float|bool|(literal|tuple|dict|list)\[.*\]|\[key\]"


def in_words(
    mistakes: Sequence[Mapping[str, Any]], prefix: str = "", known: Collection[str] = ()
) -> list[str]:
    """One line for each place at which pydantic found a mistake, in the words of the file.

    ``mistakes`` are the ``errors()`` of a ValidationError, ``known`` are keys that may have been
    meant where one was not known.
    """
    places: dict[str, list[Mapping[str, Any]]] = {}
    for mistake in mistakes:
        keys = [str(part) for part in mistake["loc"] if not re.fullmatch(KIND, str(part))]
        if mistake["type"] == "missing" and keys[-1:] and keys[-1].isdigit():
            keys.pop()  # a list that is too short
        places.setdefault(prefix + ".".join(keys), []).append(mistake)
    # What may be one word or something with parts: a mistake in a part is no mistake in the word.
    deeper = {place.rpartition(".")[0] for place in places}
    lines = []
    for place, own in places.items():
        ready = [f"{place}.{line}" for m in own for line in m.get("ctx", {}).get("lines", ())]
        if place not in deeper:
            lines += ready or [_line(place, own, known)]
    return lines


def _line(place: str, mistakes: Sequence[Mapping[str, Any]], known: Collection[str]) -> str:
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        key = place.rpartition(".")[2]
        near = get_close_matches(key, known, 1, 0.6)
        remedy = f"Did you mean {near[0]}?" if near else "Check the spelling."
        return f"{place}: expected no such key, found {first['input']!r}. {remedy}"
    short = any(m["type"] == "missing" and str(m["loc"][-1]).isdigit() for m in mistakes)
    words = [
        EXPECTED.get(m["type"], m["msg"]).format(**m.get("ctx", {}))
        for m in mistakes
        if m["type"] != "missing" or not short
    ]
    if short:
        words.append("more values")
    expected = " or ".join(dict.fromkeys(words))
    found = "none" if first["type"] == "missing" and not short else repr(first["input"])
    return f"{place}: expected {expected}, found {found}."
