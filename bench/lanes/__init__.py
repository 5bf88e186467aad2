"""`python -m bench.lanes`: times forwards of recorded lanes on a CUDA device."""
