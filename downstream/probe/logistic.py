"""The objective of logistic regression, its gradient and products with its Hessian, in blocks.

For n in 1..N samples of F features and C classes::

    mean over n of loss(x_n W + b, y_n) + penalty / 2 |W|^2

with x standardized, and softmax cross-entropy for one label a sample, or binary cross-entropy
summed over classes where a sample has several.

Two precisions: value and gradient are computed in float64 from the features as given, and decide
where the minimum is. The Hessian only gives directions; its products are in float32, summed over
blocks in float64.

The solver works in the eigenbasis of the features' covariance, where many features that say nearly
the same become few of large variance and many of small variance, and where N samples of more
features than N need N - 1 coordinates. No matrix of N x C is made if it would be large, and
features that lie in the memory of the host reach the device block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = {"cpu": 1024, "cuda": 8192}
"""Samples in a block, by type of device."""

KEPT = 2**28
"""Probabilities (N x C) above this number are computed again for every product."""

SILENT = 1e-12
"""A feature of no greater standard deviation is taken as constant."""


@dataclass(frozen=True)
class Preconditioner:
    """An approximate Hessian that is easily inverted.

    Attributes:
        diagonal: float64 (R + 1, C).
        classes: float64 (C, C), the basis of classes in which it is diagonal; None: their own.
    """

    diagonal: Tensor
    classes: Tensor | None

    def times(self, direction: Tensor) -> Tensor:
        """The approximate Hessian times a direction (R + 1, C)."""
        if self.classes is None:
            return direction * self.diagonal
        return centered((direction @ self.classes * self.diagonal) @ self.classes.T)

    def solve(self, slopes: Tensor) -> Tensor:
        """Its inverse times slopes (R + 1, C)."""
        if self.classes is None:
            return slopes / self.diagonal
        return centered((slopes @ self.classes / self.diagonal) @ self.classes.T)


class Problem:
    """One set of features and targets, for any penalty.

    Attributes:
        classes: C.
        mean: float64 (F,).
        scale: float64 (F,), one over the standard deviation; 0 where a feature never varies.
        basis: float64 (F, R), orthonormal: the eigenvectors of the standardized features'
            covariance; R is at most the lesser of F and N - 1.
        several: classes are told apart one by one, and their fits are independent.
    """

    def __init__(
        self, features: Tensor, targets: Tensor, classes: int, device: torch.device | None = None
    ) -> None:
        """Standardize and rotate.

        Args:
            features: (N, F).
            targets: int64 (N,), one label each, or bool (N, C), several.
            classes: C.
            device: that computes; None: the features' own. A copy of the features, float32
                (N, R + 1), stays where they are.
        """
        self.classes = classes
        self.several = targets.ndim == 2
        self._features, self._targets = features, targets
        self._device = device or features.device
        self._rows = ROWS.get(self._device.type, ROWS["cpu"])
        self.mean, self.scale = self._standardization()
        self.basis = self._eigenvectors()
        self._rotated = self._rotate()
        # Of the weights that were evaluated last.
        self._weights = torch.zeros(0)
        self._kept: list[Tensor] | None = None

    @property
    def samples(self) -> int:
        """N."""
        return len(self._features)

    @property
    def coordinates(self) -> int:
        """R + 1: coordinates of a class, the bias being the last."""
        return self.basis.shape[1] + 1

    def to_basis(self, weights: Tensor) -> Tensor:
        """Weights float64 (F + 1, C) as coordinates (R + 1, C).

        What no sample sees is left out.
        """
        return torch.cat([self.basis.T @ weights[:-1], weights[-1:]])

    def from_basis(self, weights: Tensor) -> Tensor:
        """Coordinates float64 (R + 1, C) as weights (F + 1, C)."""
        return torch.cat([self.basis @ weights[:-1], weights[-1:]])

    def evaluate(self, coordinates: Tensor, penalty: float) -> tuple[Tensor, Tensor, float]:
        """The objective, its gradient in coordinates, and the gradient's greatest entry.

        Args:
            coordinates: float64 (R + 1, C).
            penalty: on the weights, not the bias.

        Returns:
            float64 (), or (C,) where classes are independent; float64 (R + 1, C); the greatest
            absolute entry of the gradient by the weights (F + 1, C).
        """
        weights = self.from_basis(coordinates)
        slopes = torch.zeros_like(weights)
        value = weights.new_zeros(self.classes if self.several else ())
        keep = self.samples * self.classes <= KEPT
        self._weights = coordinates.float()
        self._kept = [] if keep else None
        for part, wanted in self._blocks(self._features, self._targets):
            x = (part.double() - self.mean) * self.scale
            logits = torch.addmm(weights[-1], x, weights[:-1])
            loss, probabilities = _loss(logits, wanted)
            value += loss
            if self._kept is not None:
                self._kept.append(probabilities.float())
            errors = _less(probabilities, wanted)
            slopes[:-1].addmm_(x.T, errors)
            slopes[-1] += errors.sum(dim=0)
        slopes /= self.samples
        slopes[:-1] += penalty * weights[:-1]
        squares = weights[:-1].square().sum(dim=0)
        value = value / self.samples + penalty / 2 * (squares if self.several else squares.sum())
        return value, self.to_basis(slopes), float(slopes.abs().max())

    def product(self, direction: Tensor, penalty: float) -> Tensor:
        """The Hessian where ``evaluate`` was last called, times ``direction`` (R + 1, C)."""
        result = torch.zeros_like(direction)
        single = direction.float()
        for x, p in self._rotated_blocks():
            moved = x @ single
            if self.several:
                moved *= p * (1 - p)
            else:
                moved *= p
                moved -= p * moved.sum(dim=1, keepdim=True)
            result += (x.T @ moved).double()
        result /= self.samples
        result[:-1] += penalty * direction[:-1]
        return result

    def preconditioner(self, penalty: float) -> Preconditioner:
        """An approximation of the Hessian where ``evaluate`` was last called.

        It is diagonal in the products of two bases: that of the features' covariance, and that of
        the classes' mean covariance E[diag p - p p'], which couples classes that are confused.
        The diagonal is the Hessian's own (as in George et al. 2018, arXiv 1806.03884, for the
        layers of a network).
        """
        diagonal = torch.zeros(
            self.coordinates, self.classes, dtype=torch.float64, device=self._device
        )
        if self.several:
            for x, p in self._rotated_blocks():
                diagonal += (x.square().T @ (p * (1 - p))).double()
            classes = None
        else:
            classes = self._confusion()
            single = classes.float()
            squares = single.square()
            for x, p in self._rotated_blocks():
                variance = p @ squares - (p @ single).square()
                diagonal += (x.square().T @ variance).double()
        diagonal /= self.samples
        # Rounding may leave a curvature of zero, or less.
        diagonal.clamp_(min=0)
        diagonal[:-1] += penalty
        diagonal[-1] += 1e-9

        return Preconditioner(diagonal, classes)

    def _confusion(self) -> Tensor:
        """Eigenvectors float64 (C, C) of the mean of diag p - p p'."""
        total = torch.zeros(self.classes, self.classes, dtype=torch.float64, device=self._device)
        for _, p in self._rotated_blocks():
            total -= (p.T @ p).double()
            total.diagonal().add_(p.sum(dim=0))
        vectors: Tensor = torch.linalg.eigh(total / self.samples)[1]
        return vectors

    def _standardization(self) -> tuple[Tensor, Tensor]:
        count, width = self._features.shape
        total = torch.zeros(width, dtype=torch.float64, device=self._device)
        for (part,) in self._blocks(self._features):
            total += part.double().sum(dim=0)
        mean = total / count
        squares = torch.zeros_like(total)
        for (part,) in self._blocks(self._features):
            squares += (part.double() - mean).square().sum(dim=0)
        deviation = (squares / count).sqrt()
        return mean, torch.where(deviation > SILENT, 1 / deviation.clamp(min=SILENT), 0.0)

    def _eigenvectors(self) -> Tensor:
        count, width = self._features.shape
        if count <= width:  # then the samples span less than the features, and N x N is the less
            (features,) = next(self._blocks(self._features, rows=count))
            x = (features.double() - self.mean) * self.scale
            values, vectors = torch.linalg.eigh(x @ x.T)
            spanned = values > 1e-14 * values[-1].clamp(min=SILENT)
            found: Tensor = x.T @ (vectors[:, spanned] / values[spanned].sqrt())
            return found
        covariance = torch.zeros(width, width, dtype=torch.float64, device=self._device)
        for (part,) in self._blocks(self._features):
            single = ((part.double() - self.mean) * self.scale).float()
            covariance += (single.T @ single).double()
        basis: Tensor = torch.linalg.eigh(covariance / count)[1]
        return basis

    def _rotate(self) -> Tensor:
        """The standardized features in the basis, and a column of ones: float32 (N, R + 1)."""
        where = self._features.device
        rotated = torch.empty(self.samples, self.coordinates, device=where)
        rotated[:, -1] = 1
        basis = self.basis.float()
        for (part,), target in zip(
            self._blocks(self._features), torch.split(rotated, self._rows), strict=True
        ):
            x = ((part.double() - self.mean) * self.scale).float()
            target[:, :-1] = (x @ basis).to(where)
        return rotated

    def _rotated_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rotated features and the probabilities at the last weights, both float32."""
        for place, (x,) in enumerate(self._blocks(self._rotated)):
            if self._kept is not None:
                yield x, self._kept[place]
            else:
                logits = x @ self._weights
                yield x, logits.sigmoid() if self.several else logits.softmax(dim=1)

    def _blocks(self, *tensors: Tensor, rows: int | None = None) -> Iterator[tuple[Tensor, ...]]:
        """The same rows of every tensor, on the device that computes."""
        for parts in zip(
            *(torch.split(tensor, rows or self._rows) for tensor in tensors), strict=True
        ):
            yield tuple(part.to(self._device, non_blocking=True) for part in parts)


def centered(weights: Tensor) -> Tensor:
    """Less their mean over classes, which softmax does not see and the penalty makes zero."""
    return weights - weights.mean(dim=1, keepdim=True)


def _loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the losses, of all or by class, and probabilities (N, C)."""
    if targets.ndim == 2:
        losses = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none")
        return losses.sum(dim=0), logits.sigmoid()
    logarithms = logits.log_softmax(dim=1)
    return F.nll_loss(logarithms, targets, reduction="sum"), logarithms.exp()


def _less(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Probabilities less the targets; changes the probabilities."""
    if targets.ndim == 2:
        return probabilities.sub_(targets.double())
    probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1
    return probabilities
