"""What face-Gibbs reads of the modes of a coordinate, laid out so that one look gives all of it for all chains.

Modes stand in slots, points first and then ranges, as many of each as any coordinate has: where both who move stay in a
range, the slots of ranges are all that is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.samplers.face_set import FaceTarget

LOWER, UPPER, PRICE, SLOPE = range(4)
"""The rows of `FaceTable.values`."""


@dataclass(frozen=True)
class FaceTable:
    """The modes of a law on d coordinates with L limits on numbers.

    Attributes:
        values: (4, slots, d), ends, price and slope. A slot without a mode is met by nothing: a point at nan, a range
            from inf to inf.
        sums: (2 + L, slots, d), what each adds to the number of ranges, to what rests, and to each count.
        points: how many slots are points.
        place: (d, M), the slot of every mode.
    """

    values: Tensor
    sums: Tensor
    points: int
    place: Tensor

    @classmethod
    def of(cls, law: FaceTarget) -> FaceTable:
        """The table of a law."""
        faces = law.faces
        point = faces.exists & ~faces.ranged
        points, ranges = int(point.sum(1).max()), max(int(faces.ranged.sum(1).max()), 1)
        # The slot of a mode is how many of its kind are before it.
        place = torch.where(faces.ranged, points + faces.ranged.cumsum(1) - 1, (point.cumsum(1) - 1).clamp_min(0))
        name, mode = faces.exists.nonzero(as_tuple=True)

        def filled(fields: list[Tensor], point: float, range_: float | Tensor) -> Tensor:
            found = law.price.new_zeros(len(fields), points + ranges, faces.n)
            found[:2, :points], found[:2, points:] = point, range_
            found[:, place[name, mode], name] = torch.stack([field[name, mode].to(found) for field in fields])
            return found

        values = filled([faces.lower, faces.upper, law.price, law.slope], torch.nan, torch.inf)
        sums = filled([faces.sized, faces.points, *faces.counts], 0.0, 0.0)
        # Whichever range a coordinate is in, it counts for the same.
        sums[0, points:] = faces.named.to(sums)
        return cls(values, sums, points, place)


def looked(table: Tensor, slot: Tensor, who: Tensor) -> Tensor:
    """Of a table (k, slots, d) what the slots (m, chains) of coordinates (m, chains) have, (k, m, chains)."""
    return table.flatten(1).index_select(1, (slot * table.shape[2] + who).flatten()).view(-1, *slot.shape)


def listed(table: Tensor, who: Tensor) -> Tensor:
    """Of a table (k, slots, d) what all slots of coordinates (m, chains) have, (k, slots, m, chains)."""
    return table.flatten(0, 1).index_select(1, who.flatten()).view(*table.shape[:2], *who.shape)
