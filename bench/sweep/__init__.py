"""`python -m bench.sweep`: tunes and measures every method and every ablation in simulated time."""
