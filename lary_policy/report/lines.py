"""What a line of a points file must be: every field of its kind, and what is written twice the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from sys import float_info
from typing import Any

from lary_policy.errors import DatasetError, UnknownNameError
from lary_policy.report.correlate import PROBE_MODE
from lary_policy.report.driven import OUTCOMES
from lary_policy.scores import find_proxy

FORMAT = 1  # of a line; raised when lines mean something else
RATES = ("success", "success_at_end")  # outcomes of 0 and 1, written as one word of digits
FACTS = ("embodiment", "head", "target", "split", "protocol", "fingerprint")  # of a closed loop's score

# Fields of an object: what each must be, in words, and whether a value is.
_Fields = Mapping[str, tuple[str, Callable[[Any], bool]]]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(least: int, value: Any) -> bool:
    return type(value) is int and value >= least


def _is_equal(number: int, value: Any) -> bool:
    return type(value) is int and value == number


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= float_info.max  # NaN is not


def _is_list(fits: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(fits, value))


_TEXT = ("a text", _is_text)
_OBJECT = ("an object", _is_object)
_COUNT = ("a whole number from 1", partial(_is_count, 1))
_LINE: _Fields = {
    **dict.fromkeys(("view", "task", "family", *FACTS), _TEXT),
    **dict.fromkeys(("outcomes", "hits", "proxies", "origin"), _OBJECT),
    "format": (f"{FORMAT}", partial(_is_equal, FORMAT)),
    "loop": (f"one of {', '.join(PROBE_MODE)}", lambda one: _is_text(one) and one in PROBE_MODE),
    "seed": ("a whole number from 0", partial(_is_count, 0)),
    "n": _COUNT,
    "latent": ("null or whole numbers from 1", lambda one: one is None or _is_list(_COUNT[1], one)),
    "episodes": ("texts, each once", lambda one: _is_list(_is_text, one) and len(set(one)) == len(one)),
}
_ORIGIN: _Fields = {
    **dict.fromkeys(("device", "package", "commit"), _TEXT),
    "setup": _OBJECT,
    "versions": ("whole numbers by stage", lambda one: _is_object(one) and all(map(_COUNT[1], one.values()))),
}
SCORE: _Fields = {  # of an offline score; the point says the rest of it
    **dict.fromkeys(("no_interval", "target", "head", "split"), _TEXT),
    "value": ("a finite number", _is_number),
    "ci95": (
        "null or two finite numbers",
        lambda one: one is None or (_is_list(_is_number, one) and len(one) == 2),
    ),
    "n": _COUNT,
    "clusters": ("null or a whole number from 1", lambda one: one is None or _COUNT[1](one)),
}


def check_line(raw: Any) -> None:
    """Make sure that a parsed line is one that `StudyPoint.to_json` may have written.

    Raises:
        DatasetError: A field is missing, unknown or of another kind, or contradicts another one.
        UnknownNameError: An outcome or an offline score has a name that is not known here.
    """
    if not isinstance(raw, dict):
        raise _fault("an object", raw)
    if raw.get("format", FORMAT) != FORMAT:
        raise DatasetError(expected=f"format {FORMAT}", got=f"format {str(raw['format'])[:80]}", fix="")
    _require_fields("", raw, _LINE)
    _require_fields("origin.", raw["origin"], _ORIGIN)
    count = len(raw["episodes"])
    if raw["n"] != count:
        raise _fault(f"n: {count}, its episodes", raw["n"])
    _check_outcomes(raw["outcomes"], count)
    ones = {name: raw["outcomes"][name].count("1") for name in RATES if name in raw["outcomes"]}
    _require_fields("hits.", raw["hits"], {
        name: (f"{k}, the ones of outcomes.{name}", partial(_is_equal, k)) for name, k in ones.items()
    })  # fmt: skip
    for name, one in raw["proxies"].items():
        find_proxy(name)
        _require_fields(f"proxies.{name}.", one, SCORE)


def _check_outcomes(raw: Mapping[str, Any], count: int) -> None:
    """Check what each of `count` episodes came to.

    Without success an episode neither ends with it nor has steps left after it.
    """
    for name in raw:
        if name not in OUTCOMES:
            raise UnknownNameError("outcome", name, OUTCOMES)
    digits = (
        f"{count} digits 0 and 1 in one text",
        lambda one: _is_text(one) and len(one) == count and set(one) <= set("01"),
    )
    shares = (
        f"{count} numbers from 0 to 1",
        lambda one: _is_list(_is_number, one) and len(one) == count and 0 <= min(one) <= max(one) <= 1,
    )
    there = {"success", *raw}
    _require_fields("outcomes.", raw, {name: digits if name in RATES else shares for name in there})
    for name in sorted({"success_at_end", "speed"} & there):
        for number, (done, value) in enumerate(zip(raw["success"], raw[name], strict=True)):
            if done == "0" and float(value) > 0:
                raise _fault(f"outcomes.{name}: 0 in episode {number}, which has no success", value)


def _require_fields(place: str, raw: Any, fields: _Fields) -> None:
    """Raise DatasetError unless it is an object of these fields, no others, and each is what it must be."""
    if not isinstance(raw, dict):
        raise _fault(f"{place.rstrip('.')}: an object", raw)
    for name in sorted(raw.keys() ^ fields.keys()):
        there = "also one called" if name in raw else "none called"
        names = f"in {place.rstrip('.') or 'it'} the fields {', '.join(fields) or '(none)'}"
        raise DatasetError(expected=names, got=f"{there} '{name}'", fix="")
    for name, (words, fits) in fields.items():
        if not fits(raw[name]):
            raise _fault(f"{place}{name}: {words}", raw[name])


def _fault(expected: str, got: Any) -> DatasetError:
    """Return the error of a line; `read_points` adds where it stands and what to do."""
    return DatasetError(expected=expected, got=json.dumps(got)[:120], fix="")
