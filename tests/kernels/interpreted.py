"""Run kernels under Triton's interpreter, with the rounding of tensor cores added to it.

    TRITON_INTERPRET=1 python interpreted.py

Each line of its input names a file of cases and one for their results, with a tab between them; the
name of the results is printed when they are there.

The interpreter multiplies float32 as it is and misreads bfloat16. Here products are what an NVIDIA
GPU computes: TF32 keeps 10 bits of a significand and drops the rest, "tf32x3" and "bf16x3" split a
number in two and leave out the product of the small parts, half precision is multiplied exactly,
and sums are float32.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import torch
from triton._C.libtriton import ir
from triton.runtime import interpreter

from lavit_deploy.kernels import less_attention, mlp

KERNELS = {"less_attention": less_attention.launch, "fused_mlp": mlp.launch}


def tf32(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def bf16(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).bfloat16().float().numpy()


def widened(handle: interpreter.TensorHandle) -> np.ndarray:
    data = np.ascontiguousarray(handle.data)
    if data.dtype == np.uint16:  # how the interpreter keeps bfloat16
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32)


def dot(_builder, a, b, d, precision, _imprecise):
    left, right = widened(a), widened(b)
    kinds = ir.INPUT_PRECISION
    if a.data.dtype != np.float32 or precision == kinds.IEEE:
        product = left @ right
    elif precision == kinds.TF32:
        product = tf32(left) @ tf32(right)
    else:
        keep = {kinds.TF32x3: tf32, kinds.BF16x3: bf16}[precision]
        left_high, right_high = keep(left), keep(right)
        left_low, right_low = keep(left - left_high), keep(right - right_high)
        product = left_high @ right_low + left_low @ right_high + left_high @ right_high
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def main() -> None:
    interpreter.InterpreterBuilder.create_dot = dot
    builder = interpreter.interpreter_builder
    allowed = (*builder.options.allowed_dot_input_precisions, "bf16x3")
    builder.options = dataclasses.replace(builder.options, allowed_dot_input_precisions=allowed)
    for line in sys.stdin:
        cases, results = line.rstrip("\n").split("\t")
        made = [KERNELS[name](*given, **options) for name, given, options in torch.load(cases)]
        torch.save(made, results)
        print(results, flush=True)


if __name__ == "__main__":
    main()
