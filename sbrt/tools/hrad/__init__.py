"""H-RAD, from training samples to results: collect, train, eval."""
