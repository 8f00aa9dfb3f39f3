"""The pattern engine: where the energy is convex once modes are chosen, which modes to choose."""
