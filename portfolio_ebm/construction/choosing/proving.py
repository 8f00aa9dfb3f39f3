"""How long the tree goes on, and on which names.

The bound rises by about as much at each doubling of the nodes, so what two of them gave says where it will end: a tree
that will clearly not reach the incumbent is stopped, with the bound it has. Where screening has left fewer names, a new
tree on those takes its place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portfolio_ebm.constraints.mixed.branch_and_bound import Proof, Tree
from portfolio_ebm.constraints.mixed.programs.slice import Array
from portfolio_ebm.constraints.mixed.screening import Screened
from portfolio_ebm.constraints.mixed.strengthening import strengthened

FALLEN = 0.1
"""Share of the names that have to fall out, or in, for a tree on what is left."""
HOPELESS = 0.25
"""The tree goes on while at most so much of the gap before its last doubling is expected to be left at the end."""


def proven(
    tree: Tree, first: Proof, most: int, best: tuple[Array | None, float], left: Screened | None, look: int
) -> Proof:
    """The tree grown from `first` on, or one on the names that are left, where some fall out, and with a limit on
    numbers priced: with fewer names more can be split off the quadratic, and all is faster."""
    weights, value = best
    if weights is None:
        return grown(tree, first, most, weights, value)
    if left is not None and (left.mixed is None or left.bound >= value - tree.tolerance):
        return Proof(weights, value, min(left.bound, value), first.nodes, finished=True, proven=True)
    fewer = left is not None and left.decided >= FALLEN * left.n
    base = left.mixed if left is not None and left.mixed is not None and fewer else tree.mixed
    root = base.root()
    stronger = base if root is None else strengthened(base, root, value)
    if stronger is tree.mixed:
        return grown(tree, first, most, weights, value)
    tighter, rest = Tree(stronger, tree.tolerance), max(most - first.nodes, 1)
    near = weights[left.names] if left is not None and fewer else weights
    bare, proof = tighter.grow(1, near, value), tighter.grow(min(look, rest), near, value)
    if not _hopeless(bare, proof, rest):
        proof = grown(tighter, proof, rest, near, value)
    better = proof.weights if proof.weights is not None and proof.value < value else None
    whole = better if better is None or left is None or not fewer else left.whole(better)
    known = -np.inf if left is None else min(left.bound, proof.value)
    return replace(
        proof, weights=weights if whole is None else whole, nodes=first.nodes + proof.nodes,
        bound=max(proof.bound, known),
    )  # fmt: skip


def grown(tree: Tree, first: Proof, most: int, weights: Array | None, value: float) -> Proof:
    """The tree grown from `first` to `most` nodes, or to where its bound will clearly not reach the incumbent."""
    proof, before = tree.grow(min(2 * max(first.nodes, 1), most), weights, value), first
    while not _hopeless(before, proof, most):
        proof, before = tree.grow(min(2 * proof.nodes, most), weights, value), proof
    return proof


def _hopeless(before: Proof, proof: Proof, most: int) -> bool:
    """Whether a tree has ended, or will clearly not by `most` nodes, from what it rose by since `before`."""
    if proof.finished or proof.nodes >= most:
        return True
    rise = (proof.bound - before.bound) / np.log(max(proof.nodes, 2) / max(before.nodes, 1))
    ends = proof.bound + rise * np.log(most / max(proof.nodes, 1))
    return bool(proof.value - ends > HOPELESS * (proof.value - before.bound))
