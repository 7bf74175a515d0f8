"""Batches of a and g -> running sums: covariances with their eigenvectors, and squares of rotated text gradients.

The two sums that EK-FAC is made of (Grosse et al. 2023, section 3.1; George et al. 2018), each with what makes it
cheap on one core. Covariances are symmetric, so only the upper triangle is summed. A text's gradient in the
eigenbasis is (g Q_S)^T (a Q_A); each side rotates tokens or the text's gradient, whichever takes fewer products
(T i^2 against o i^2; T o^2 against i o^2), layers with one input rotate it once, and one text is done at a time so
that its gradient stays in the processor's cache while it is squared, stored or multiplied. Products have the dtype of
a and g, sums are fp32. Not covered: what the sums mean and how they are inverted (factors.py).

Shapes: R rows of a batch, D texts, C texts of a chunk, o outputs, i inputs (with bias column).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leaven.attribution.dense import Constant, add_gram, eigenvectors
from leaven.attribution.passes import Seen

_IN_CACHE = 1 << 18
"""Numbers of one layer's text gradients held at once on a CPU (1 MB of fp32)."""
_ON_DEVICE = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """One layer's eigenvectors in columns, q_out [o,o] of S and q_in [i,i] of A, and their eigenvalues divided by
    their mean, s_out [o] and s_in [i]."""

    q_out: Tensor
    q_in: Tensor
    s_out: Tensor
    s_in: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One layer's eigenvectors, laid out to turn many rows."""

    q_out: Constant
    q_in: Constant


def turns(bases: Mapping[str, Basis], dtype: torch.dtype) -> dict[str, Turn]:
    """Return the eigenvectors of every layer in a dtype; those that layers share stay shared."""
    made: dict[int, Constant] = {}

    def of(q: Tensor) -> Constant:
        if id(q) not in made:
            made[id(q)] = Constant(q.to(dtype))
        return made[id(q)]

    return {n: Turn(of(b.q_out), of(b.q_in)) for n, b in bases.items()}


class Covariances:
    """Running sums of a a^T per distinct input and g g^T per layer, over positions with loss."""

    def __init__(self) -> None:
        self.inner: dict[str, Tensor] = {}
        self.outer: dict[str, Tensor] = {}
        self.leader: dict[str, str] = {}

    def add(self, seen: Seen) -> None:
        """Add one batch; layers with the same input share one sum."""
        first: dict[int, str] = {}
        for name, a in seen.inputs.items():
            leader = self.leader[name] = first.setdefault(id(a), name)
            if leader == name:
                _add_gram(self.inner, name, seen.with_loss(a))
            _add_gram(self.outer, name, seen.with_loss(seen.grads[name]))

    def bases(self) -> dict[str, Basis]:
        """Return the eigenvectors of every layer; the sums are given up one by one."""
        inner = {n: eigen(self.inner.pop(n)) for n in list(self.inner)}
        found = {}
        for name in self.leader:  # the order of the layers, which a file does not keep
            (s_out, q_out), (s_in, q_in) = eigen(self.outer.pop(name)), inner[self.leader[name]]
            found[name] = Basis(q_out, q_in, s_out, s_in)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums, for a file."""
        return {f"{side}|{n}": x for side in ("inner", "outer") for n, x in getattr(self, side).items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], leader: Mapping[str, str]) -> Covariances:
        """Return what `tensors` and `leader` describe."""
        result = cls()
        result.leader = dict(leader)
        for key, x in tensors.items():
            side, _, name = key.partition("|")
            getattr(result, side)[name] = x
        return result


def _add_gram(sums: dict[str, Tensor], name: str, x_Rn: Tensor) -> None:
    """Add x^T x to the upper triangle of the sum."""
    if name not in sums:
        sums[name] = x_Rn.new_zeros(x_Rn.shape[1], x_Rn.shape[1], dtype=torch.float32)
    add_gram(sums[name], x_Rn)


def eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues divided by their mean, ascending, and eigenvectors in columns; the upper triangle counts.

    fp32 ranks training texts as fp64 does (Spearman 1.0000 on the benchmark's models) at half the cost.
    """
    values, vectors = eigenvectors(gram / gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny))
    return values.clamp(min=0), vectors.contiguous()  # as a file gives them back: products then round the same


def rotated(seen: Seen, name: str, turn: Turn, shared: dict[int, Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yield (texts of the batch, their gradients in the eigenbasis [C,o,i]) for one layer.

    The tensor is reused: it is valid until the next one is asked for, and may be changed. `shared` holds rotated
    inputs for the other layers of the same batch.
    """
    g, a = seen.grads[name], seen.inputs[name]
    o, i, texts = g.shape[1], a.shape[1], len(seen.batch.numbers)
    tokens = len(a) / texts
    inward, outward = tokens <= o, tokens <= i
    if inward:
        if id(a) not in shared:
            shared[id(a)] = turn.q_in.after(a)
        a = shared[id(a)]
    if outward:
        g = turn.q_out.after(g)
    a_DTi, g_DTo = seen.batch.by_document(a), seen.batch.by_document(g)
    step = max(1, (_ON_DEVICE if g.is_cuda else _IN_CACHE) // (o * i))
    whole = g.new_empty(min(step, texts), o, i)
    for begin in range(0, texts, step):
        part, size = slice(begin, begin + step), min(step, texts - begin)
        if size == 1:  # one plain product is faster than a batch of one
            torch.mm(g_DTo[begin].t(), a_DTi[begin], out=whole[0])
        else:
            torch.bmm(g_DTo[part].transpose(1, 2), a_DTi[part], out=whole[:size])
        found = whole[:size]
        found = found if inward else turn.q_in.after(found)
        yield part, found if outward else turn.q_out.plain.t() @ found


def add_squares(total_oi: Tensor, gradients_Coi: Tensor) -> None:
    """Add the squares of every text's gradient."""
    for each in gradients_Coi if len(gradients_Coi) <= 4 else ():
        wide = each.float()
        total_oi.addcmul_(wide, wide)
    if len(gradients_Coi) > 4:
        total_oi.add_(gradients_Coi.float().square().sum(0))
