"""The basis of a vertex: the active elements at the free entries, its inverse mended pivot by pivot.

    B = A[active, free],   k x k

A pivot replaces a row (one element is let go, another met), replaces a column (one entry is set free, another comes to
rest), borders B (an entry set free, an element met) or takes a row and a column out (an element let go, an entry at
rest). Each changes the inverse by a rank-one matrix. The rows A[active, :] and the columns A[:, free] stand in one
piece, so that prices and rates of a step are one product each.

Source: Dantzig, G. B. and Orchard-Hays, W. (1954), The product form for the inverse in the simplex method, Mathematical
Tables and Other Aids to Computation 8; Hager, W. W. (1989), Updating the inverse of a matrix, SIAM Review 31(2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dgetrf, dgetri

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

SMALL = 1e-7
"""A pivot below this, relative to its row or column, is not divided by: the inverse is computed anew."""
ROOM = 16


class Basis:
    """`active` elements and `free` entries by their slots, (k,) each, and the inverse of B, (k, k): free by active.

    Args:
        elements: A, (e, d), and `columns` a copy of its transpose, each row in one piece.
    """

    def __init__(self, elements: Array, columns: Array, active: Ints, free: Ints) -> None:
        self._elements, self._columns = elements, columns
        self.active, self.free = active, free
        self._rows, self._entries = elements[active], columns[free]
        self.inverse = np.zeros((0, 0))

    @property
    def rows(self) -> Array:
        """A[active, :], (k, d)."""
        return self._rows[: len(self.active)]

    @property
    def entries(self) -> Array:
        """A[:, free] transposed, (k, e)."""
        return self._entries[: len(self.free)]

    def refresh(self) -> bool:
        """Compute the inverse anew; False where there is none."""
        factor, pivots, failed = dgetrf(self.rows[:, self.free], overwrite_a=1)
        if failed:
            return False
        self.inverse, failed = dgetri(factor, pivots, overwrite_lu=1)
        return not failed and bool(np.isfinite(self.inverse).all())

    def answer(self, entry: int) -> Array:
        """By how much the free entries fall for a unit of `entry` while the active elements stand still, (k,)."""
        return np.asarray(self.inverse @ self.rows[:, entry])

    def exchange_elements(self, place: int, element: int) -> bool:
        """The element in slot `place` is let go, `element` is met; False where B has no inverse any more."""
        row = self._elements[element, self.free] @ self.inverse
        self.active[place] = element
        self._rows[place] = self._elements[element]
        pivot = row[place]
        if not abs(pivot) > SMALL * np.abs(row).max():
            return self.refresh()
        column = self.inverse[:, place] / pivot
        row[place] = 0.0
        self.inverse = self.inverse - column[:, None] * row
        self.inverse[:, place] = column
        return True

    def exchange_entries(self, slot: int, entry: int) -> bool:
        """The entry in `slot` comes to rest, `entry` is set free; False where B has no inverse any more."""
        column = self.answer(entry)
        self.free[slot] = entry
        self._entries[slot] = self._columns[entry]
        pivot = column[slot]
        if not abs(pivot) > SMALL * np.abs(column).max():
            return self.refresh()
        row = self.inverse[slot] / pivot
        column[slot] = 0.0
        self.inverse = self.inverse - column[:, None] * row
        self.inverse[slot] = row
        return True

    def add(self, entry: int, element: int) -> bool:
        """`entry` is set free, `element` is met; False where B has no inverse any more."""
        k = len(self.active)
        column, at = self.answer(entry), self._elements[element, self.free]
        row, pivot = at @ self.inverse, float(self._elements[element, entry] - at @ column)
        if k == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty((ROOM, self._rows.shape[1]))])
        if k == len(self._entries):
            self._entries = np.concatenate([self._entries, np.empty((ROOM, self._entries.shape[1]))])
        self._rows[k], self._entries[k] = self._elements[element], self._columns[entry]
        self.active, self.free = np.append(self.active, element), np.append(self.free, entry)
        if not abs(pivot) > SMALL * max(float(np.abs(at).max(initial=0.0)), abs(float(self._elements[element, entry]))):
            return self.refresh()
        wider = np.empty((k + 1, k + 1))
        wider[:k, k] = column / -pivot
        wider[:k, :k] = self.inverse - wider[:k, k, None] * row
        wider[k, :k], wider[k, k] = row / -pivot, 1.0 / pivot
        self.inverse = wider
        return True

    def remove(self, slot: int, place: int) -> bool:
        """The entry in `slot` comes to rest, the element in slot `place` is let go; their slots are taken by the last
        ones. False where B has no inverse any more."""
        last, inverse = len(self.active) - 1, self.inverse
        row, column = inverse[slot], inverse[:, place]
        pivot = float(row[place])
        sound = abs(pivot) > SMALL * max(float(np.abs(row).max()), float(np.abs(column).max()))
        if sound:
            inverse = inverse - column[:, None] * (row / pivot)
            inverse[slot], inverse[:, place] = inverse[last], inverse[:, last]
            self.inverse = inverse[:last, :last]
        self.active[place], self.free[slot] = self.active[last], self.free[last]
        self._rows[place], self._entries[slot] = self._rows[last], self._entries[last]
        self.active, self.free = self.active[:last], self.free[:last]
        return sound or self.refresh()
