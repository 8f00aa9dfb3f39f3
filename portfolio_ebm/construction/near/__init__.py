"""The laws exp(-E/T) near an optimum, prepared for exact kernels, and draws from them until they are worth it."""
