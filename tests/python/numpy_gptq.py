"""GPTQ and the scale searches that look at a Hessian in NumPy, straight from the papers: plain, slow, nothing shared with
the program; formats are those of numpy_formats.py.

    mine = quantize(W, X.T @ X, Method(format, rounding="gptq", order="static_activation"))
    mine.codes, mine.scales, mine.values, mine.order, mine.damping, mine.condition

Frantar et al. (ICLR 2023), Algorithm 1, with U of H^-1 = U^T U: for each column i, e = (w - q) / U_ii and
W[:, i:] -= e U[i, i:]. The recursion is float64; a value is rounded to float32 where it enters a quantizer, which is float32
by the specification. The factor 2/n of H changes neither codes nor ratios and is left out.
"""
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from numpy_formats import Coder
from numpy_model import hadamard


@dataclass
class Method:
    format: dict                  # as numpy_formats.Coder takes it
    rounding: str = "rtn"         # rtn, gptq
    order: str = "natural"        # natural, static_activation, dynamic_activation
    scales: str = "up_front"      # up_front, at_group_start, in_loop
    weight_scales: object = None  # a rule instead of the format's own, with "metric"; "local_hessian"
    damping: float = 0.01         # fraction of the mean of diag(H) over live channels
    k: int = 0                    # blocks of the Hadamard transform; 0: none
    # Not options of the program: wrong readings for negative controls.
    keep_dead: bool = False       # weights of dead channels stay, and their H_ii is what the damping adds
    moved_groups: bool = False    # static_activation: scales of groups that are formed in the loop's order
    flat_metric: bool = False     # searches compare plain squared errors


def damped(H, damping):
    """H with dead channels at 1 and the damping added, and which channels are dead."""
    dead = np.diag(H) == 0
    if dead.all():
        return np.eye(len(H)), dead
    H = H + np.diag(dead.astype(float))
    return H + damping * np.mean(np.diag(H)[~dead]) * np.eye(len(H)), dead


def upper_of_inverse(H):
    """U, upper, with H^-1 = U^T U."""
    return np.linalg.cholesky(np.linalg.inv(H)).T


def rounded(coder, x, s, zeros):
    """Codes and float64 values of a group x (rows, columns) on its effective scales s (rows)."""
    s, zeros = s[:, None], zeros[:, None]
    with np.errstate(all="ignore"):
        codes = np.where(s > 0, coder.element.encode(np.float32(x) / s, zeros), coder.element.zero)
    return codes, np.float64(coder.values(codes, zeros, s))


def least(tried, losses):
    """By row: the candidate of the least loss, among equal ones the smaller."""
    tried, losses = np.stack(tried), np.stack(losses)
    return np.where(losses == losses.min(axis=0), tried, tried.max() + 1).min(axis=0)


def replayed(coder, group, s, zeros, U):
    """What the errors of a group (rows, columns) cost: sum of ((w - q) / U_ii)^2 with the recursion run inside it."""
    W, loss = group.copy(), 0
    for i in range(W.shape[1]):
        e = (W[:, i] - rounded(coder, W[:, i:i + 1], s, zeros)[1][:, 0]) / U[i, i]
        W[:, i:] -= e[:, None] * U[i, i:]
        loss = loss + e ** 2
    return loss


class Quantizer:
    """What chooses the scales of groups: the format's rule or a search, by squared errors, by diag(H) or by blocks of H."""

    def __init__(self, method, W, H):
        rule = method.weight_scales
        self.blocks = rule == "local_hessian"
        self.weighted = isinstance(rule, dict) and rule.get("metric") == "hessian_diagonal"
        self.flat = method.flat_metric
        if isinstance(rule, dict):
            rule = {key: value for key, value in rule.items() if key != "metric"}
        self.coder = Coder(method.format if rule is None or self.blocks else {**method.format, "rule": rule})
        self.factor, self.H = self.coder.factor(np.float32(W)), H

    def measure(self, group, columns):
        H = self.H[columns][:, columns]
        H = np.eye(len(H)) if self.flat or not (self.weighted or self.blocks) else H if self.blocks else np.diag(np.diag(H))
        def loss(s, zeros):
            d = group - rounded(self.coder, group, s, zeros)[1]
            return np.sum((d @ H) * d, axis=1)
        return loss

    def choose(self, group, measure):
        """Scale codes, effective scales and zero points of a group (rows, columns); measure(s, zeros): losses by row."""
        coder, x = self.coder, np.float32(group)
        live = np.abs(x).max(axis=1) > 0
        tried = [t[:, 0] for t in coder.candidates(x, self.factor)]
        zeros = np.zeros(len(x))
        if coder.element.asym:
            zeros = coder.apply(x, tried[0][:, None], self.factor).zeros[:, 0].astype(float)
        if self.blocks:
            tried = [np.where(live, k, 0) for k in range(1, 127)]
        def effective(t):
            return np.where(live, coder.effective(t, self.factor), np.float32(0))
        scales = least(tried, [measure(effective(t), zeros) for t in tried]) if len(tried) > 1 else tried[0]
        return scales, effective(scales), zeros


def transformed(W, H, k):
    """W T and T^T H T in float64; W T is rounded to float32, as weights are stored."""
    if not k:
        return np.array(W, np.float64), H
    return np.float64(np.float32(hadamard(W, k))), hadamard(hadamard(H, k).T, k).T


def quantize(W, H, method):
    """W (N, K) float32; H (K, K) = X^T X. What is returned is in stored order: column i is channel order[i] of W T."""
    W, H = transformed(W, H, method.k)
    N, K = W.shape
    stored = loop = np.arange(K)
    if method.order == "dynamic_activation":
        stored = np.argsort(-np.diag(H), kind="stable")
        W, H = W[:, stored], H[stored][:, stored]
    if method.order == "static_activation":
        loop = np.argsort(-np.diag(H), kind="stable")
    found = SimpleNamespace(order=stored, W=W.copy(), H=H, damping=method.damping)

    U = np.eye(K)
    if method.rounding == "gptq":
        found.Hd, dead = damped(H, method.damping)
        found.dead = dead.sum()
        if method.keep_dead:
            found.Hd -= np.diag(dead.astype(float))
        else:
            W[:, dead] = 0
        U = upper_of_inverse(found.Hd[loop][:, loop])

    q = found.quantizer = Quantizer(method, W, H)
    g, coder = q.coder.group, q.coder
    found.scales, found.zeros, s = np.zeros((N, K // g), int), np.zeros((N, K // g)), np.zeros((N, K // g), np.float32)

    def set_group(b, columns, measure=None):
        group = W[:, columns]
        found.scales[:, b], s[:, b], found.zeros[:, b] = q.choose(group, measure or q.measure(group, columns))

    for b in range(K // g):
        set_group(b, loop[b * g:b * g + g] if method.moved_groups else np.arange(b * g, b * g + g))
    found.codes, found.values = np.zeros((N, K), int), np.zeros((N, K))
    for i, c in enumerate(loop):
        b = c // g
        if i % g == 0 and method.scales != "up_front":  # the order is natural: i == c
            group, inside = W[:, c:c + g].copy(), U[c:c + g, c:c + g]
            in_loop = method.scales == "in_loop" and not method.flat_metric
            set_group(b, np.arange(c, c + g), (lambda s, z: replayed(coder, group, s, z, inside)) if in_loop else None)
        codes, values = rounded(coder, W[:, c:c + 1], s[:, b], found.zeros[:, b])
        found.codes[:, c], found.values[:, c] = codes[:, 0], values[:, 0]
        e = (W[:, c] - values[:, 0]) / U[i, i]
        W[:, loop[i:]] -= e[:, None] * U[i, i:]
    return found
