"""`python -m bench.kernels`: times every op of a forward, on the CPU or on a CUDA device."""
