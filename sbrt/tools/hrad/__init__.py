"""H-RAD from samples to results: collect, train, eval."""
