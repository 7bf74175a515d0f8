"""Matrices -> products, Gram matrices and eigenvectors, each by the routine of this machine that does it fastest.

What attribution computes is dense products with a few constant matrices (eigenvectors, the model's weights), x^T x, and
eigenvectors of symmetric matrices. On an x86 CPU torch's plain products reach 80 % of what the processor can do in fp32
and multiply x^T x whole. Here a constant matrix is laid out once as oneDNN wants it (95 %), x^T x is BLAS's symmetric
product (half the work), and eigenvectors come from LAPACK's relatively robust representations instead of divide and
conquer (four fifths of the time). Every routine has a plain counterpart that is used where it is not there (other
devices and dtypes, small matrices), with equal results up to rounding; the choice depends on shapes, dtype and machine
alone, so a computation repeated gives the same bits. Not covered: what the products are for (sums.py, passes.py).

Shapes: R rows, n columns, m columns of a product.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

_SMALL = 128
"""Columns below which plain routines are as fast."""
_SMALL_EIGEN = 512
_MOST_SINGLE = 1024
"""Rows up to which eigenvectors are taken in fp32: beyond, what fp32 leaves of the small ones shows in the scores (at 2048 rows the
ranking of texts agrees with an fp64 basis to .99985 instead of .99999)."""
_COLUMNS = 4
"""Column blocks of a Gram matrix without BLAS: (1 + 1/4) / 2 of the products, at the speed of whole ones."""
_ROWS = 1024
"""Rows that packed matrices are laid out for."""


class Constant:
    """A matrix [n,m] that many others are multiplied with from the left."""

    __slots__ = ("_packed", "plain")

    def __init__(self, plain_nm: Tensor) -> None:
        """Lay the matrix out; its values must not change afterwards."""
        self.plain = plain_nm
        self._packed = _pack(plain_nm) if packs(plain_nm) else None

    def after(self, x_Rn: Tensor) -> Tensor:
        """Return x @ matrix, [R,m] (or [...,m]); no gradient flows through it."""
        if self._packed is None or x_Rn.dtype != self.plain.dtype:
            return x_Rn @ self.plain
        return torch.ops.mkldnn._linear_pointwise(x_Rn, self._packed, None, "none", [], "")


def packs(x_nm: Tensor) -> bool:
    """Say whether a matrix is laid out anew, which takes as much memory again."""
    if x_nm.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or min(x_nm.shape) < _SMALL:
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return x_nm.dtype == torch.float32 or (x_nm.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(plain_nm: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(plain_nm.detach().t().contiguous(), _ROWS)


def add_gram(sums_nn: Tensor, x_Rn: Tensor) -> None:
    """Add x^T x to the upper triangle of an fp32 sum; what lies below it is undefined."""
    n = x_Rn.shape[1]
    if x_Rn.device.type == "cpu" and x_Rn.dtype == torch.float32 and n >= _SMALL and sums_nn.is_contiguous():
        from scipy.linalg import blas

        # arrays of rows are read as transposed arrays of columns: x is [n,R] there, the upper triangle the lower one
        total = sums_nn.numpy().T
        found = blas.ssyrk(1.0, x_Rn.contiguous().numpy().T, beta=1.0, c=total, lower=1, overwrite_c=1)
        if found.ctypes.data != total.ctypes.data:
            sums_nn.copy_(torch.from_numpy(found.T))
        return
    width = n if n < 64 * _COLUMNS else -(-n // _COLUMNS)
    for begin in range(0, n, width):
        end = min(n, begin + width)
        block, left, right = sums_nn[:end, begin:end], x_Rn[:, :end].t(), x_Rn[:, begin:end]
        if x_Rn.dtype == torch.float32:
            block.addmm_(left, right)
        else:
            block.add_(left @ right)


def eigenvectors(x_nn: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors in columns of a symmetric fp32 matrix whose upper triangle counts.

    Large matrices are solved in fp64, which is also the way out where fp32 does not converge.
    """
    if x_nn.dtype == torch.float32 and len(x_nn) > _MOST_SINGLE:
        values, vectors = eigenvectors(x_nn.double())
        return values.float(), vectors.float()
    if x_nn.device.type == "cpu" and x_nn.dtype in (torch.float32, torch.float64) and len(x_nn) >= _SMALL_EIGEN:
        found = _robust(x_nn)
        if found is not None:
            return found
    try:
        return torch.linalg.eigh(x_nn, UPLO="U")
    except torch.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(x_nn.double(), UPLO="U")
        return values.to(x_nn.dtype), vectors.to(x_nn.dtype)


def _robust(x_nn: Tensor) -> tuple[Tensor, Tensor] | None:
    """Reduce to a tridiagonal matrix, take its eigenvectors by MRRR (Dhillon & Parlett 2004), turn them back; None where
    a result is not orthonormal."""
    from scipy import linalg
    from scipy.linalg import lapack

    n = len(x_nn)
    reduce, turn = (lapack.ssytrd, lapack.sormqr) if x_nn.dtype == torch.float32 else (lapack.dsytrd, lapack.dormqr)
    reflectors, diagonal, beside, scales, _ = reduce(x_nn.contiguous().numpy().T, lower=1, lwork=64 * n)
    try:
        values, turned = linalg.eigh_tridiagonal(diagonal, beside, check_finite=False)
    except (linalg.LinAlgError, ValueError):
        return None
    turned[1:], _, _ = lapack.sormqr("L", "N", reflectors[1:, :-1], scales, turned[1:], 64 * n)
    found = torch.from_numpy(turned.T)  # a vector per row, as LAPACK keeps columns
    return (torch.from_numpy(values), found.t().contiguous()) if _orthonormal(found) else None


def _orthonormal(q_nn: Tensor) -> bool:
    """Say whether rows are orthonormal: neighbours (clusters are where it is lost) and a random combination."""
    n, worst = len(q_nn), 1e-4
    near = [torch.linalg.vecdot(q_nn[d:], q_nn[: n - d]) - float(d == 0) for d in range(2)]
    v = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=q_nn.dtype)
    off = (q_nn @ (q_nn.t() @ v) - v).norm() / v.norm()
    return all(float(x.abs().max()) < worst for x in near) and float(off) < worst  # false for nan
