"""Hyperbolic geometry: pure functions of tensors, exact, robust and differentiable."""
