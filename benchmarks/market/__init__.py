"""The evidence that factor energy models are good densities: `python -m benchmarks.market --help`.

    data -> baselines (margins, joint laws) and our frozen model, each as one frame of daily forecasts
         -> statistics -> tables -> docs/EVIDENCE.md

Every row of every table comes from a frame with the same columns, made by the same code.
"""
