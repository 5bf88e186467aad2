"""H-RAD from samples to a verdict: collect, train, eval."""
