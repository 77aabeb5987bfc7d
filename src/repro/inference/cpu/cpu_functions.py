"""Differentiable functions of the CPU engine: each is a kernel forward and one backward.

They are all operations of a layer but the products of matrices; of these, only the one in bfloat16
is here.
"""

import numpy as np
import torch
from torch.autograd import Function
from torch.nn.functional import linear

from repro.inference.cpu import cpu_kernels


def array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's memory as an array for the kernels: bfloat16 as its bits, uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


class _NoContext:
    """The context of a forward pass without a backward pass: it saves nothing."""

    def save_for_backward(self, *tensors):
        """Save nothing."""


def apply(function: type[Function], *inputs) -> torch.Tensor:
    """Apply a differentiable function; without gradients, call its `forward` directly.

    `Function.apply` takes longer than some of these functions.
    """
    if torch.is_grad_enabled():
        return function.apply(*inputs)
    return function.forward(_NoContext(), *inputs)


class RMSNorm(Function):
    """Root mean square norm of (rows, size), scaled by (weight + offset)."""

    @staticmethod
    def forward(ctx, x, weight, offset, epsilon, dtype):
        """Return the output, and save what the backward pass needs."""
        ctx.save_for_backward(x, weight)
        ctx.constants, out = (offset, epsilon), torch.empty_like(x, dtype=dtype)
        cpu_kernels.rms_norm(array(x), array(weight), offset, epsilon, array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of the inputs, None for constants."""
        x, weight = ctx.saved_tensors
        to_x = torch.empty_like(x, dtype=torch.float32)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        inputs = array(x), array(weight), *ctx.constants, array(grad.contiguous())
        cpu_kernels.rms_norm_backward(*inputs, to_x.numpy(), to_weight.numpy())
        return to_x, to_weight, None, None, None


class GatedActivation(Function):
    """The activation of `gate` times `up`, both (rows, size): SwiGLU or GeGLU by `a` and `b`."""

    @staticmethod
    def forward(ctx, gate, up, a, b):
        """Return the output, and save what the backward pass needs."""
        ctx.save_for_backward(gate, up)
        ctx.constants, out = (a, b), torch.empty_like(gate)
        cpu_kernels.gated_activation(array(gate), array(up), a, b, array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of the inputs, None for constants."""
        gradients = [torch.empty_like(tensor) for tensor in ctx.saved_tensors]
        inputs = *map(array, ctx.saved_tensors), *ctx.constants, array(grad.contiguous())
        cpu_kernels.gated_activation_backward(*inputs, *map(array, gradients))
        return *gradients, None, None


class RotaryEmbedding(Function):
    """Queries or keys (nodes, heads, size) rotated by the depth of each node (RoPE)."""

    @staticmethod
    def forward(ctx, x, depth, cos, sin, dtype):
        """Return the output, and save what the backward pass needs."""
        ctx.positions, ctx.dtype = (depth, cos, sin), x.dtype
        out = torch.empty_like(x, dtype=dtype)
        cpu_kernels.rotate(array(x), depth, cos, sin, np.float32(1), array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of the inputs, None for constants."""
        out = torch.empty_like(grad, dtype=ctx.dtype)
        inputs = array(grad.contiguous()), *ctx.positions, np.float32(-1)
        cpu_kernels.rotate(*inputs, array(out))
        return out, None, None, None, None


class Attention(Function):
    """Attention of queries, (nodes, heads, size), to the nodes on their paths (`PrefixTree`)."""

    @staticmethod
    def forward(ctx, q, keys, values, nodes, tree, scale, window):
        """Return the output, and save what the backward pass needs."""
        ctx.save_for_backward(q, keys, values)
        ctx.constants, out = (nodes, tree.path, tree.depth, scale, window), torch.empty_like(q)
        states = array(q), array(keys), array(values)
        cpu_kernels.attention(*states, *ctx.constants, array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of the inputs, None for constants."""
        states = [array(tensor) for tensor in ctx.saved_tensors]
        gradients = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in ctx.saved_tensors]
        inputs = *states, *ctx.constants, array(grad.contiguous())
        cpu_kernels.attention_backward(*inputs, *map(array, gradients))
        return *gradients, None, None, None, None


class BFloat16Linear(Function):
    """x · weightᵀ + bias for states in bfloat16.

    `multiplied` is the weight in bfloat16, or in float32 with the values of bfloat16. The product
    is rounded once, after the bias is added.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, multiplied):
        """Return the output, and save what the backward pass needs."""
        ctx.save_for_backward(x, multiplied)
        ctx.biased = bias is not None
        if bias is not None:
            bias = bias.to(x.dtype).to(multiplied.dtype)
        return linear(x.to(multiplied.dtype), multiplied, bias).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of the inputs, None for constants."""
        x, multiplied = ctx.saved_tensors
        to_x = (grad.to(multiplied.dtype) @ multiplied).to(grad.dtype)
        to_weight = grad.T.to(multiplied.dtype) @ x.to(multiplied.dtype)
        to_bias = grad.float().sum(0) if ctx.biased else None
        return to_x, to_weight, to_bias, None
