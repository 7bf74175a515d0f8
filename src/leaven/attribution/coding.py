"""Gradients in the eigenbasis -> bytes of a row, and back: bf16 or int8, all coordinates or those that matter most.

A row holds one text's gradient, layer after layer. bf16 keeps 8 bits of every number. int8 keeps one fp32 scale per
text and layer; numbers are first multiplied by (e + d)^-1/2, e being the Kronecker eigenvalues and d their damping,
so that they are of one size and rounding falls where scores weigh it least. With `share` below 1 only the coordinates
with the largest e / d of all layers are kept: Lambda is the mean square of a coordinate, so what is dropped costs a
score least there (Lambda itself is not known when the first row is written; e stands for it). What either costs in
ranking is measured on whole rows (store.py). Not covered: low-rank queries, which lost more at equal cost.

Shapes: C texts, o outputs, i inputs, K kept coordinates of a layer, R rows read at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leaven.attribution.sums import Basis
from leaven.errors import StudyError

Kind = Literal["bf16", "int8"]
BYTES: dict[Kind, int] = {"bf16": 2, "int8": 1}
SMALLEST_SHARE = 0.003
"""Below this share of coordinates a ranking says little (Spearman .3-.5 on the benchmark's model)."""
_DAMPING = 0.1
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Coding:
    """How a number is kept, and which share of the coordinates."""

    kind: Kind = "bf16"
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be read back."""
        if self.kind not in BYTES or not 0 < self.share <= 1:
            raise StudyError(f"coding: expected bf16 or int8 and a share in (0, 1], found {self.kind!r}, {self.share!r}")

    def row_bytes(self, parameters: int, layers: int) -> int:
        """Return the bytes of one row of a model with so many tracked parameters and layers (at most)."""
        scales = 4 * layers if self.kind == "int8" else 0
        return scales + int(self.share * parameters) * BYTES[self.kind] + _ALIGN * (layers + 1)

    def sentence(self) -> str:
        """Return the coding in words."""
        return self.kind + ("" if self.share == 1 else f", {self.share:.2%} of the coordinates")


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One layer's part of a row: first byte, number of kept coordinates, their places in o x i (None = all), and what
    numbers are multiplied by before they become int8 (None for bf16)."""

    begin: int
    kept: int
    places: Tensor | None
    factor: Tensor | None


class Rows:
    """Where everything lies in a row, and how it is written and read."""

    def __init__(self, coding: Coding, bases: Mapping[str, Basis]) -> None:
        """Lay out rows for these layers (in their order)."""
        self.coding, self.columns = coding, {}
        self.begin = -(-4 * len(bases) // _ALIGN) * _ALIGN if coding.kind == "int8" else 0
        chosen = _most_important(bases, coding.share)
        offset = self.begin
        for name, basis in bases.items():
            places, size = chosen[name], basis.s_out.numel() * basis.s_in.numel()
            kept = size if places is None else places.numel()
            self.columns[name] = Column(offset, kept, places, _factor(basis, places) if coding.kind == "int8" else None)
            offset += -(-kept * BYTES[coding.kind] // _ALIGN) * _ALIGN
        self.bytes = max(offset, _ALIGN)
        self.number = {name: k for k, name in enumerate(bases)}

    def encode(self, name: str, gradients_Coi: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return one layer's kept numbers [C,K] and, for int8, their scales [C]."""
        column, found = self.columns[name], gradients_Coi.flatten(1)
        if column.places is not None:
            found = found.index_select(1, column.places)
        if column.factor is None:
            return found.to(torch.bfloat16), None
        scaled = found.float() * column.factor
        low, high = torch.aminmax(scaled, dim=1)
        scale = torch.maximum(high, -low).clamp(min=torch.finfo(torch.float32).tiny) / 127
        return scaled.div_(scale[:, None]).round_().to(torch.int8), scale

    def weigh(self, name: str, queries_Qoi: Tensor) -> Tensor:
        """Return [Q,K] such that its product with a row's numbers is the product of the gradients."""
        column, found = self.columns[name], queries_Qoi.flatten(1)
        if column.places is not None:
            found = found.index_select(1, column.places)
        return found if column.factor is None else found / column.factor

    def dot(self, rows: Tensor, name: str, weighed_QK: Tensor) -> Tensor:
        """Return products [R,Q] of rows (uint8[R,bytes]) with weighed queries, in fp32."""
        column, width = self.columns[name], BYTES[self.coding.kind]
        kind = torch.bfloat16 if self.coding.kind == "bf16" else torch.int8
        numbers = rows[:, column.begin : column.begin + column.kept * width].view(kind)
        total = weighed_QK.new_zeros(len(rows), len(weighed_QK))
        for begin in range(0, column.kept, _BLOCK):  # a block of rows stays in the cache while it is widened
            part = slice(begin, begin + _BLOCK)
            total.addmm_(numbers[:, part].to(weighed_QK.dtype), weighed_QK[:, part].t())
        if self.coding.kind == "int8":
            place = 4 * self.number[name]
            total *= rows[:, place : place + 4].contiguous().view(torch.float32)
        return total


_BLOCK = 1 << 13


def choose_coding(budget_bytes: int, n_rows: int, parameters: int, layers: int) -> Coding | None:
    """Return the best coding whose rows fit: bf16, int8, a share of int8; None when not even the smallest does."""
    for kind in ("bf16", "int8"):
        if Coding(kind).row_bytes(parameters, layers) * n_rows <= budget_bytes:
            return Coding(kind)
    fixed = Coding("int8", SMALLEST_SHARE).row_bytes(0, layers)
    share = (budget_bytes / max(1, n_rows) - fixed) / max(1, parameters)
    share = float(f"{share * 0.999:.3g}") if share > 0 else 0.0
    return Coding("int8", min(1.0, share)) if share >= SMALLEST_SHARE else None


def _kronecker(basis: Basis) -> Tensor:
    """Return eigenvalues [o,i] of the Kronecker product, with mean 1."""
    return torch.outer(basis.s_out, basis.s_in)


def _factor(basis: Basis, places: Tensor | None) -> Tensor:
    found = _kronecker(basis).add_(_DAMPING).rsqrt_().flatten()
    return found if places is None else found.index_select(0, places)


def _most_important(bases: Mapping[str, Basis], share: float) -> dict[str, Tensor | None]:
    """Return the places of the kept coordinates of each layer; e / d is comparable between layers since d follows
    each layer's mean."""
    if share == 1:
        return dict.fromkeys(bases)
    sizes = {n: b.s_out.numel() * b.s_in.numel() for n, b in bases.items()}
    keep = max(len(bases), int(share * sum(sizes.values())))
    threshold = _threshold([_kronecker(b).flatten() for b in bases.values()], keep)
    chosen: dict[str, Tensor | None] = {}
    for name, basis in bases.items():
        values = _kronecker(basis).flatten()
        places = (values > threshold).nonzero()[:, 0]
        chosen[name] = places if len(places) else values.argmax()[None]
    return chosen


def _threshold(values: Sequence[Tensor], keep: int) -> float:
    """Return the value that `keep` of all exceed, by bisection: no copy of all of them is sorted."""
    low, high = 0.0, max(float(v.max()) for v in values)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(int((v > middle).sum()) for v in values) > keep:
            low = middle
        else:
            high = middle
    return high
