"""Plain JSON -> OrderInputs or InfluenceInputs: the records as an analysis step writes them, checked field by field.

The file is one object with the fields of the inputs; every record is an object with the fields of its dataclass, and
what a record may leave out, the file may leave out.
Not covered: computing what is in it (analysis/).
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from leaven.errors import DataError
from leaven.reporting.sections.influence_inputs import InfluenceInputs
from leaven.reporting.sections.inputs import OrderInputs


def inputs_from(found: Any, where: str = "order.json") -> OrderInputs:
    """Return the inputs on order that plain JSON holds; `where` names it in errors.

    Raises DataError naming the record and field that is missing, unknown or of another type.
    """
    return _record(OrderInputs, found, where)


def influence_inputs_from(found: Any, where: str = "influence.json") -> InfluenceInputs:
    """Return the inputs on influence that plain JSON holds; arguments and errors as of inputs_from."""
    return _record(InfluenceInputs, found, where)


@lru_cache(maxsize=64)
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field of a dataclass and whether it must be there."""
    hints = get_type_hints(kind)
    return {
        f.name: (hints[f.name], f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(kind)
    }


def _record(kind: Any, found: Any, where: str) -> Any:
    if not isinstance(found, Mapping):
        raise DataError(f"{where}: expected an object with the fields of {kind.__name__}, found {type(found).__name__}")
    known = _fields(kind)
    unknown = sorted(set(found) - set(known))
    missing = sorted(name for name, (_, needed) in known.items() if needed and name not in found)
    if unknown or missing:
        said = [f"unknown {unknown}" if unknown else "", f"missing {missing}" if missing else ""]
        raise DataError(f"{where}: expected the fields {sorted(known)} of {kind.__name__}; {'; '.join(s for s in said if s)}")
    return kind(**{name: _value(known[name][0], value, f"{where}.{name}") for name, value in found.items()})


def _value(kind: Any, found: Any, where: str) -> Any:
    """Return a JSON value as a field of type `kind`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if found is None and type(None) in parts:
            return None
        return _value(next(p for p in parts if p is not type(None)), found, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, found, where)
    if origin is tuple:
        if not isinstance(found, (list, tuple)):
            raise DataError(f"{where}: expected a list, found {type(found).__name__}")
        return tuple(_value(parts[0], v, f"{where}[{i}]") for i, v in enumerate(found))
    if origin is not None:
        if not isinstance(found, Mapping):
            raise DataError(f"{where}: expected an object, found {type(found).__name__}")
        return {str(k): _value(parts[1], v, f"{where}.{k}") for k, v in found.items()}
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(found, wanted) or (isinstance(found, bool) and kind is not bool):
        raise DataError(f"{where}: expected {kind.__name__}, found {found!r}")
    if isinstance(found, float) and not math.isfinite(found):
        raise DataError(f"{where}: expected a finite number, or null where there is none; found {found}")
    return found
