"""Falcon's K-way normalised cut by proximal steps, naively (arXiv 2504.05613, ICLR 2026).

The step and its acceptance are the paper's. How the proximal weight starts and grows, δ and the
number of sweeps are not known from it: the defaults here are mdrt's own choice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def one_hot(labels: Labels, k: int) -> Floats:
    """`labels` (n,) as rows of zeros and a one: (n, k)."""
    x = np.zeros((len(labels), k))
    for i, label in enumerate(labels):
        x[i, label] = 1.0
    return x


def normalised_association(W: Floats, labels: Labels, k: int) -> float:
    """f = Σ_k (x_kᵀ W x_k)/(x_kᵀ D x_k), D = diag(W·1); an empty cluster adds 0."""
    degrees = W.sum(axis=1)
    x = one_hot(labels, k)
    total = 0.0
    for j in range(k):
        volume = float(x[:, j] @ (degrees * x[:, j]))
        if volume > 0:
            total += float(x[:, j] @ W @ x[:, j]) / volume
    return total


def gradient(W: Floats, labels: Labels, k: int) -> Floats:
    """M (n, k) = 2(G·diag(1/v) − D X·diag(ρ)), G = W X, ρ = q/v²; −inf for an empty cluster."""
    degrees = W.sum(axis=1)
    x = one_hot(labels, k)
    g = W @ x
    m = np.full((len(W), k), -np.inf)
    for j in range(k):
        volume = float(x[:, j] @ (degrees * x[:, j]))
        if volume > 0:
            association = float(x[:, j] @ g[:, j])
            m[:, j] = 2 * (g[:, j] / volume - degrees * x[:, j] * association / volume**2)
    return m


def proximal_cut(
    W: Floats,
    labels0: Labels,
    k: int,
    *,
    tau: float = 0.0,
    second_tau: float = 0.1,
    gamma: float = 2.0,
    delta: float = 1e-3,
    sweeps: int = 30,
    restart: bool = False,
) -> tuple[Labels, list[float]]:
    """Labels (n,) from `labels0` (n,) with affinity `W` (n, n), and f of the start and each sweep.

    A rejected step at weight 0 is retried with `second_tau`·max|M|, later ones with `gamma` times
    the weight. The weight stays as it is for the next sweep, or with `restart` begins again at
    `tau`. At most `sweeps` accepted steps; a step that would change nothing ends the search. A
    cluster once empty stays empty.
    """
    labels = labels0.copy()
    values = [normalised_association(W, labels, k)]
    weight = tau
    while len(values) <= sweeps:
        if restart:
            weight = tau
        m = gradient(W, labels, k)
        accepted = False
        while not accepted:
            proposal = np.asarray((m + weight * one_hot(labels, k)).argmax(axis=1), dtype=np.int64)
            if (proposal == labels).all():
                return labels, values
            moved = 2.0 * float((proposal != labels).sum())  # ‖X′ − X‖² of one-hot rows
            value = normalised_association(W, proposal, k)
            accepted = value >= values[-1] + delta * weight / 2 * moved
            if not accepted:
                if weight == 0:
                    weight = second_tau * float(np.abs(m[np.isfinite(m)]).max())
                else:
                    weight = gamma * weight
                if weight == 0:
                    return labels, values
        labels = proposal
        values.append(value)
    return labels, values
