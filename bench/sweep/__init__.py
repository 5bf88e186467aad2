"""`python -m bench.sweep`: every method and ablation, tuned, in simulated time."""
