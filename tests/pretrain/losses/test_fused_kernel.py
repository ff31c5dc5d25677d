"""The CUDA kernel: its arithmetic in Triton's interpreter, its compilation without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]

ARITHMETIC = """
import torch
from torch.nn import functional as F
from pretrain.geometry import lorentz, poincare
from pretrain.losses import hyperbolic_info_nce, info_nce, lorentz_info_nce

torch.set_num_threads(1)
def evaluate(loss, parts, dtype, **options):
    query, key, queue = (part.to(dtype) for part in parts)
    query.requires_grad_()
    value = loss(query, key, queue, **options)
    return value.detach(), torch.autograd.grad(value, query)[0]

def check(name, loss, points, queries, tolerance, **options):
    points = points.float()
    parts = [points[:queries].clone(), points[queries : 2 * queries], points[2 * queries :]]
    exact = evaluate(loss, parts, torch.float64, path="plain", **options)
    fused = evaluate(loss, parts, torch.float32, path="triton", **options)
    value = (abs(fused[0] - exact[0]) / exact[0]).item()
    rows = ((fused[1] - exact[1]).norm(dim=1) / exact[1].norm(dim=1)).max().item()
    assert value < 1e-5 and rows < tolerance, (name, value, rows)

generator = torch.Generator().manual_seed(0)
for queries, negatives, size in ((40, 150, 20), (3, 33, 16), (1, 1, 5)):
    u = torch.randn(2 * queries + negatives, size, generator=generator, dtype=torch.float64)
    for scale, c in ((0.3, 1.0), (0.01, 0.05), (2.0, 0.05)):
        ball, lifted = poincare.to_ball(u * scale, c), lorentz.expmap0(u * scale, c)
        check("ball", hyperbolic_info_nce, ball, queries, 1e-4, c=c, temperature=0.2)
        check("lorentz", lorentz_info_nce, lifted, queries, 1e-4, c=c, temperature=0.2)
    twin = u * 0.3
    twin[-1] = twin[0] * (1 + 1e-6)
    check("twin", hyperbolic_info_nce, poincare.to_ball(twin, 1.0), queries, 1e-4, c=1.0,
          temperature=0.2)
    check("lorentz twin", lorentz_info_nce, lorentz.expmap0(twin, 1.0), queries, 1e-3, c=1.0,
          temperature=0.2)
    unit = F.normalize(u, dim=1)
    check("cosine", info_nce, unit, queries, 1e-5, temperature=0.07)
    rows = torch.rand(queries) + 0.05
    check("row temperatures", info_nce, unit, queries, 1e-5, temperature=rows)
    strided = unit.float().T.contiguous().T
    check("strided", info_nce, strided, queries, 1e-5, temperature=0.07)
print("all agree")
"""

COMPILATION = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pretrain.losses import fused

outputs = ("m_out", "sums_out", "weighted_out")
pointers = {name: "*fp32" for name in ("x", "y", "rows", "columns", *outputs)}
sizes = {name: "i32" for name in ("n", "k", "d", "x_stride", "y_stride")}
constants = {"share": 512, "kind": fused.BALL, "near": fused.NEAR, "queries": fused.QUERIES,
             "negatives": fused.NEGATIVES, "width": 128}
names = fused._share.arg_names
source = ASTSource(
    fn=fused._share,
    signature={name: {**pointers, **sizes}.get(name, "constexpr") for name in names},
    constexprs={(names.index(name),): value for name, value in constants.items()},
)
options = {"num_warps": 4, "num_stages": 2}
kernel = compile(source, target=GPUTarget("cuda", 80, 32), options=options)
assert "mma" in kernel.asm["ptx"]
print(kernel.metadata.shared)
"""


def run(code, **variables):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_arithmetic_in_the_interpreter():
    assert "all agree" in run(ARITHMETIC, TRITON_INTERPRET="1", HCL_COMPILE="never")


def test_kernel_compiles_for_cuda(tmp_path):
    """For sm_80, with shared memory that every GPU since Turing has (64 KiB)."""
    shared = run(COMPILATION, TRITON_CACHE_DIR=str(tmp_path))
    assert int(shared) <= 64 * 1024
