"""`python -m bench.lanes`: forwards of recorded lanes on a CUDA device."""
