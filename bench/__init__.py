"""Benches: `python -m bench.decode`, `python -m bench.kernels`, `python -m bench.peers`."""
