"""Linear and logistic regression with a ridge: models that need no engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RIDGE = 1.0
"""Weight of the squared coefficients beside the summed loss: next to nothing at a thousand rows, and enough
for terms that say the same or happen once."""

_N_STEPS = 50
_N_HALVINGS = 30
_TOLERANCE = 1e-9


def fit_linear(matrix: Floats, target: Floats, *, ridge: float = RIDGE) -> Floats:
    """Return the coefficients that minimise squared error plus `ridge` times their squares.

    Args:
        matrix: Shape (n_rows, n_terms); the first column is all ones and is not shrunk.
        target: Shape (n_rows,).
        ridge: Above 0.

    Source: Hoerl & Kennard, Technometrics 12(1), 1970.
    """
    penalty = _penalty(matrix.shape[1], ridge)
    found = np.linalg.solve(matrix.T @ matrix + np.diag(penalty), matrix.T @ target)
    return np.asarray(found, dtype=np.float64)


def fit_logistic(matrix: Floats, happened: Floats, *, ridge: float = RIDGE) -> Floats:
    """Return the coefficients that minimise log loss (summed, nats) plus half `ridge` times their squares.

    Args:
        matrix: Shape (n_rows, n_terms); the first column is all ones and is not shrunk.
        happened: 0 or 1, shape (n_rows,).
        ridge: Above 0.

    Source: iteratively reweighted least squares, which is Newton's method here; McCullagh & Nelder,
    Generalized Linear Models, 1989, section 2.5. Steps that do not improve are halved.
    """
    penalty = _penalty(matrix.shape[1], ridge)
    beta = np.zeros(matrix.shape[1])
    loss = _loss(matrix, happened, beta, penalty)
    for _ in range(_N_STEPS):
        p = probability(matrix @ beta)
        gradient = matrix.T @ (p - happened) + penalty * beta
        weight = np.maximum(p * (1 - p), 1e-12)
        curvature = matrix.T @ (matrix * weight[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        for _ in range(_N_HALVINGS):
            improved = _loss(matrix, happened, beta - step, penalty)
            if improved <= loss:
                break
            step = step / 2
        else:
            return beta
        beta, before, loss = beta - step, loss, improved
        if before - loss <= _TOLERANCE * max(1.0, abs(loss)):
            break
    return beta


def probability(log_odds: Floats) -> Floats:
    """Return probabilities of log odds, without overflow."""
    found: Floats = 0.5 * (1.0 + np.tanh(0.5 * log_odds))
    return found


def _loss(matrix: Floats, happened: Floats, beta: Floats, penalty: Floats) -> float:
    log_odds = matrix @ beta
    return float((np.logaddexp(0.0, log_odds) - happened * log_odds).sum() + 0.5 * (penalty * beta**2).sum())


def _penalty(n_terms: int, ridge: float) -> Floats:
    penalty = np.full(n_terms, ridge)
    penalty[0] = ridge * 1e-6  # not shrunk, yet solvable where all else says the same
    return penalty
