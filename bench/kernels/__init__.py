"""`python -m bench.kernels`: every op of a forward, on the CPU and on a CUDA device."""
