"""A model and a batch -> what every linear layer saw and passed back: inputs a and pseudo-gradients g of each token.

For a linear layer s = W a the gradient of a text's loss is G = sum_t g_t a_t^T with g_t = d loss / d s_t (Grosse et
al. 2023, eq. 12-16), so factors, scores and token decompositions all follow from a and g, and no per-example
parameter gradient is needed. Parameters are frozen while tracked and the graph begins at the lowest tracked layer:
the backward pass computes no weight gradients. The forward-mode pass gives the change of every token's loss along a
parameter direction. Modules: "mlp" (Infra, Kou et al. 2025), "linear" (all linear layers of the decoder),
"linear+head". Not covered: convolutions, embeddings, norms, mixtures of experts (refused), tied or shared weights
(refused when tracked).

Shapes: R rows (all B*T tokens, or the M positions with loss), i inputs (with a bias column where the layer has one),
o outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leaven.attribution.heads import Labels, learn
from leaven.attribution.steady import Weight, laid_out, lent
from leaven.attribution.texts import Batch
from leaven.errors import BackendError, StudyError

Modules = Literal["mlp", "linear", "linear+head"]
Dtype = Literal["fp32", "bf16"]
Vectors = dict[str, Tensor]
"""One tensor per tracked module: a gradient [o,i], or several [Q,o,i]."""
HEAD = "head"
_ONE_AT_A_TIME = 1 << 14
"""Weights of a layer from which text gradients are multiplied one by one."""
_CPU_TOKENS = 1024
"""Padded tokens of a batch on a CPU beyond which passes get no faster; what they see takes less memory."""
_MLP_PARTS = {"mlp", "feed_forward", "ffn", "gate", "up", "down", "fc1", "fc2"}


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One backward pass: a [R,i] and g [R,o] per module, the loss in nats of every target [M]."""

    batch: Batch
    inputs: dict[str, Tensor]
    grads: dict[str, Tensor]
    losses: Tensor

    def text_gradients(self, name: str) -> Tensor:
        """Return the gradient of each document's loss with respect to one module's weights, [D,o,i]."""
        g, a = self.batch.by_document(self.grads[name]), self.batch.by_document(self.inputs[name])
        if g.is_cuda or g.shape[2] * a.shape[2] < _ONE_AT_A_TIME:
            return g.transpose(1, 2) @ a
        result = g.new_empty(len(g), g.shape[2], a.shape[2])
        for d in range(len(g)):  # plain products run at 1.6 times the speed of a batch of them on a CPU
            torch.mm(g[d].t(), a[d], out=result[d])
        return result

    def with_loss(self, x_R: Tensor) -> Tensor:
        """Return the rows of the M positions that carry loss."""
        return x_R if x_R.shape[0] == self.batch.at.shape[0] else x_R.index_select(0, self.batch.at)


class Tracked:
    """The tracked linear layers of an open local model (`backend.model` of lm/), and passes over them."""

    def __init__(
        self, model: Any, modules: Modules = "mlp", layers: Sequence[int] | None = None, dtype: Dtype = "fp32"
    ) -> None:
        """Choose layers.

        Args:
            model: TinyTrainable or HfTrainable.
            modules: which linear layers.
            layers: decoder layers by number; None = all.
            dtype: fp32, or bf16 for products (the weights stay as they are; sums over tokens and texts are fp32).

        Raises:
            StudyError: no layer is left, or `modules` or `dtype` is unknown.
            BackendError: experts, shared weights, or weights that are not floating point.
        """
        if modules not in ("mlp", "linear", "linear+head"):
            raise StudyError(f"modules: expected mlp, linear or linear+head, found {modules!r}")
        if dtype not in ("fp32", "bf16"):
            raise StudyError(f"dtype: expected fp32 or bf16, found {dtype!r}")
        self.model, self.modules, self.dtype = model, modules, dtype
        self.layers = _linear_layers(model.module, modules == "mlp", layers)
        self.with_head = modules == "linear+head"
        self._weights: dict[str, Weight] = {}
        _refuse_unsupported(model, self.layers, self.with_head)
        if not self.layers:
            raise StudyError(
                f"modules {modules!r}, layers {layers}: expected linear layers of "
                f"{type(model.module).__name__}, found none"
            )
        model.module.eval()

    @property
    def head_weight(self) -> Tensor:
        """Return the output projection [V,D]."""
        return self.model.module.head_weight if hasattr(self.model.module, "head_weight") else self.model.head.weight

    @property
    def device(self) -> str:
        """Return where the model lies."""
        return str(self.head_weight.device)

    @property
    def numbers(self) -> torch.dtype:
        """Return the dtype of a and g."""
        return torch.bfloat16 if self.dtype == "bf16" else torch.float32

    def at_once(self, batch_tokens: int) -> int:
        """Return the most padded tokens of a batch that pay here."""
        return min(batch_tokens, _CPU_TOKENS) if self.device == "cpu" else batch_tokens

    def names(self) -> list[str]:
        """Return the names of the tracked modules."""
        return [*self.layers, *([HEAD] if self.with_head else [])]

    def weight(self, name: str) -> Tensor:
        """Return a tracked module's weight as [o,i] without its bias column."""
        if name == HEAD:
            return self.head_weight
        layer = self.layers[name]
        return layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()

    def shape(self, name: str) -> tuple[int, int]:
        """Return (o, i) with the bias column."""
        o, i = self.weight(name).shape
        return o, i + (name != HEAD and self.layers[name].bias is not None)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Lay the model's weights out for the backward passes inside; they must not change meanwhile."""
        if self._weights or self.dtype != "fp32" or torch.is_autocast_enabled("cpu"):
            yield
            return
        self._weights = laid_out(self.model.module, self.head_weight)
        try:
            yield
        finally:
            self._weights = {}

    def backward(self, batch: Batch, draws: Tensor | None = None) -> Seen:
        """Run forward and backward.

        The loss is sum over targets of weight x token loss. With `draws` (label_draws), labels are drawn from the
        model and weights are square roots, so that E[G G^T] is the Gauss-Newton matrix of the weighted loss.
        """
        return self._backward(batch, [_labels(batch, draws)])[0]

    def backward_both(self, batch: Batch, draws: Tensor) -> tuple[Seen, Seen]:
        """Run forward once and backward twice: with the data's labels, and with drawn ones (see `backward`)."""
        of_data, of_draws = self._backward(batch, [_labels(batch, None), _labels(batch, draws)])
        return of_data, Seen(batch, of_data.inputs, of_draws.grads, of_draws.losses)

    def _backward(self, batch: Batch, wanted: Sequence[Labels]) -> list[Seen]:
        with lent(self.model.module, self._weights):
            hidden, inputs, outputs = self._hidden(batch)
        numbers = torch.bfloat16 if self.dtype == "bf16" else self.head_weight.dtype
        result, head = [], self._weights.get("head")
        for k, learned in enumerate(learn(hidden, self.head_weight, wanted, numbers, self.with_head, laid_out=head)):
            found = torch.autograd.grad(hidden, list(outputs.values()), learned.hidden, retain_graph=k + 1 < len(wanted))
            grads = dict(zip(outputs, found, strict=True))
            if learned.logits is not None:
                inputs[HEAD], grads[HEAD] = hidden.detach(), learned.logits
            result.append(self._seen(batch, inputs, grads, learned.losses))
        return result

    @torch.no_grad()
    def push_forward(self, batch: Batch, direction: Vectors) -> tuple[Tensor, Tensor]:
        """Return logits [M,V] and their change per unit of `direction` (one [o,i] per module), by forward-mode
        differentiation.

        Raises:
            BackendError: an operation of this architecture has no forward-mode derivative.
        """

        def tilt(name: str, a: Tensor, out: Tensor) -> Tensor:
            primal, tangent = forward_ad.unpack_dual(out)
            moved = _with_bias(forward_ad.unpack_dual(a).primal, direction[name]) @ direction[name].t()
            return forward_ad.make_dual(primal, moved if tangent is None else tangent + moved)

        handles = [
            layer.register_forward_hook(lambda _, a, out, n=name: tilt(n, a[0], out))
            for name, layer in self.layers.items()
        ]
        try:
            # hand-written backward passes have no forward-mode derivative
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), plain_kernels(self.model.module, True):
                hidden = self.model.hidden(batch.ids, batch.positions, batch.document, batch.at)
                logits = F.linear(hidden, self.head_weight)
                if self.with_head:
                    logits = tilt(HEAD, hidden, logits)
                found = forward_ad.unpack_dual(logits)
                return found.primal.clone(), found.tangent.clone()
        except NotImplementedError as error:
            raise BackendError(
                f"{type(self.model.module).__name__}: expected forward-mode derivatives of all its operations, "
                f"found: {error}. "
                "Use attn_implementation eager, or the position decomposition"
            ) from error
        finally:
            for handle in handles:
                handle.remove()

    def loss_changes(self, batch: Batch, direction: Vectors) -> Tensor:
        """Return the change of every target's weighted loss along `direction`, [M]."""
        logits, change = self.push_forward(batch, direction)
        along = (logits.float().softmax(-1) * change).sum(-1) - change.gather(1, batch.targets[:, None])[:, 0]
        return along * batch.weights

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return logits [M,V] at positions with loss, and the inputs and outputs of every tracked layer."""
        hidden, inputs, outputs = self._hidden(batch)
        with self._frozen(), torch.enable_grad(), self._products():
            logits = F.linear(hidden, self.head_weight)
        if self.with_head:
            inputs[HEAD], outputs[HEAD] = hidden.detach(), logits
        return logits, inputs, outputs

    def _hidden(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return hidden states [M,D] at positions with loss, and the inputs and outputs of every tracked layer below
        the head."""
        low = self.dtype == "bf16"
        with self._frozen(), self._captured() as (inputs, outputs), plain_kernels(self.model.module, low), self._products():
            return self.model.hidden(batch.ids, batch.positions, batch.document, batch.at), inputs, outputs

    def _products(self) -> torch.autocast:
        """Return a context in which products have the dtype asked for."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")

    def _seen(self, batch: Batch, inputs: Mapping[str, Tensor], grads: Mapping[str, Tensor], losses: Tensor) -> Seen:
        flat: dict[tuple[int, bool], Tensor] = {}
        found: dict[str, Tensor] = {}
        for name in self.names():
            # layers that read the same input (query, key, value; gate, up) share one tensor, so factors can share work
            biased = name != HEAD and self.layers[name].bias is not None
            key = id(inputs[name]), biased
            if key not in flat:
                rows = inputs[name].flatten(0, -2)
                rows = rows.to(self.numbers)
                flat[key] = torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if biased else rows
            found[name] = flat[key]
        return Seen(batch, found, {n: grads[n].flatten(0, -2).to(self.numbers) for n in self.names()}, losses.detach())

    @contextmanager
    def _captured(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        whole: dict[int, Tensor] = {}
        alive: list[Tensor] = []  # keeps ids unique while they are keys

        def keep(name: str, a: Tensor, out: Tensor) -> Tensor:
            if name in inputs:
                raise BackendError(
                    f"layer {name}: expected one call per forward pass, found two; layers used twice are not supported"
                )
            inputs[name] = whole.setdefault(id(a), a.detach())
            alive.append(a)
            out = out if out.requires_grad else out.detach().requires_grad_()
            outputs[name] = out
            return out

        handles = [
            layer.register_forward_hook(lambda _, a, out, n=name: keep(n, a[0], out))
            for name, layer in self.layers.items()
        ]
        try:
            with torch.enable_grad():
                yield inputs, outputs
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        learning = [p for p in self.model.module.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


@contextmanager
def plain_kernels(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Let the embedded model use ordinary operations, which have every derivative and take part in autocast."""
    kernels = getattr(module, "kernels", None)
    if not wanted or kernels is None:
        yield
        return
    module.kernels = "plain"
    try:
        yield
    finally:
        module.kernels = kernels


def _with_bias(a: Tensor, direction: Tensor) -> Tensor:
    """Append the bias column where the direction has one."""
    return a if a.shape[-1] == direction.shape[-1] else torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)


def _labels(batch: Batch, draws: Tensor | None) -> Labels:
    """Return the data's labels, or drawn ones with square roots of weights."""
    if draws is None:
        return Labels(batch.weights, targets=batch.targets)
    return Labels(batch.weights.clamp(min=0).sqrt(), draws=draws)


def _linear_layers(module: nn.Module, mlp_only: bool, layers: Sequence[int] | None) -> dict[str, nn.Module]:
    found = {}
    for name, part in module.named_modules():
        pieces = name.split(".")
        number = next((int(p) for p in pieces if p.isdigit()), None)
        if number is None or not (isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"):
            continue
        if (not mlp_only or _MLP_PARTS & set(pieces)) and (layers is None or number in layers):
            found[name] = part
    return found


def _refuse_unsupported(model: Any, layers: Mapping[str, nn.Module], with_head: bool) -> None:
    for name, part in model.module.named_modules():
        kind = type(part).__name__
        if "Moe" in kind or "MoE" in kind or "Experts" in kind:
            raise BackendError(
                f"layer {name} ({kind}): expected a dense model, found a mixture of experts; experts see other "
                "tokens each and "
                "their factors are not supported yet, so attribute a dense model"
            )
    uses: dict[int, str] = {}
    for name, part in layers.items():
        if not part.weight.is_floating_point():
            raise BackendError(
                f"layer {name}: expected floating-point weights, found {part.weight.dtype}; load the model unquantised"
            )
        if id(part.weight) in uses:
            raise BackendError(
                f"layers {uses[id(part.weight)]} and {name} share one weight; shared weights are not "
                "supported, leave these layers out"
            )
        uses[id(part.weight)] = name
    if with_head:
        inner = model.module
        head = inner.head_weight if hasattr(inner, "head_weight") else model.head.weight
        embedding = inner.embedding.weight if hasattr(inner, "embedding") else inner.get_input_embeddings().weight
        if head is embedding:
            raise BackendError(
                "modules linear+head: expected an output head of its own, found one tied to the embedding, "
                "whose gradient is not "
                "a sum over head inputs alone; use modules: linear"
            )
