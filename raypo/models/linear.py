"""Linear layers on a CPU through oneDNN, in fp32, forward and backward.

torch hands fp32 products on a CPU to the BLAS that it was built with, in its wheels MKL, and has oneDNN beside it for
bf16. Which is faster depends on the processor: on two cores of an AMD EPYC with AVX-512 a product of 2,048 x 2,048 x
2,048 runs at 206 GFLOP/s by MKL and at 458 by oneDNN, and those of a decoder's shapes, with their transposes, at 136 to
215 and 296 to 492. The sums are fp32 in both; their order differs. It is always oneDNN, not what a trial finds faster:
a resumed run has to add in the order in which it began.

oneDNN compiles a kernel for every shape, of 0.5 to 2 MB, and by default keeps 1,024 of them in each of two caches:
rows of packed sets hardly ever have one length twice, and 500 MB are soon held for shapes that do not come again. Both
caches are bounded here, before they are made: by environment variables, since torch has no call for it.

On a GPU, in other types, and in a build without oneDNN, layers are torch's own.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

CACHES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
"""Of oneDNN and of ideep, through which torch calls it; read at a process's first product."""

KERNELS = 16
"""That each cache keeps. The next layer asks for those of a layer again: forward 4 or 5 shapes of matrices, backward
twice as many, and with adapters 15."""


class Linear(nn.Linear):
    """`nn.Linear` whose fp32 products on a CPU are oneDNN's."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        types = input.device.type, input.dtype, self.weight.dtype
        if types != ("cpu", torch.float32, torch.float32) or input.dim() < 2 or not input.numel():
            return super().forward(input)
        out: Tensor = _Product.apply(input, self.weight, self.bias)
        return out


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a model, those within adapters too, compute as above; their parameters stay theirs.

    The caches are bounded unless the environment says otherwise, and where nothing of this process went through oneDNN
    before.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for name in CACHES:
        os.environ.setdefault(name, str(KERNELS))
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias by oneDNN, without gradient: [..., k] and [n, k], of any strides, give [..., n]. fp32 on a CPU."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return out


class _Product(torch.autograd.Function):
    """x w^T + bias. x: [..., in], w: [out, in], bias: [out] or None; returns [..., out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_w, _ = ctx.needs_input_grad
        # as torch's own: beneath an adapter, where the weight is frozen, its input is not held
        ctx.save_for_backward(x if needs_w else None, w if needs_x else None)
        return product(x, w, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, w), grad = ctx.saved_tensors, grads[0].flatten(0, -2)
        needs_x, needs_w, needs_bias = ctx.needs_input_grad
        return (
            product(grad, w.t()).view(*grads[0].shape[:-1], -1) if needs_x else None,
            product(grad.t(), x.flatten(0, -2).t()) if needs_w else None,
            grad.sum(0) if needs_bias else None,
        )
