"""A slice without curvature: a linear program, by HiGHS.

Source: Huangfu, Q. and Hall, J. A. J. (2018), Parallelizing the dual revised simplex method, Mathematical Programming
Computation 10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]


def linear_minimum(
    slope: Array, rows: Array, box: tuple[Array, Array], low: Array, high: Array
) -> tuple[Array, Array] | None:
    """argmin of slope'w over box and rows, and the rows' multipliers; None where HiGHS finds none."""
    scale = max(float(np.abs(slope).max()), 1e-300)
    equal = high - low <= 1e-14
    above, below = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    left, right = np.concatenate([rows[above], -rows[below]]), np.concatenate([high[above], -low[below]])
    found = linprog(
        slope / scale, A_ub=left if len(left) else None, b_ub=right if len(left) else None,
        A_eq=rows[equal] if equal.any() else None, b_eq=high[equal] if equal.any() else None,
        bounds=np.column_stack(box), method="highs-ds",
    )  # fmt: skip
    if found.status != 0:
        return None
    duals = np.zeros(len(rows))
    count = int(above.sum())
    duals[equal] = found.eqlin.marginals if equal.any() else 0.0
    duals[above] = found.ineqlin.marginals[:count]
    duals[below] -= found.ineqlin.marginals[count:]
    return np.asarray(found.x), scale * duals
