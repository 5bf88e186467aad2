"""Benches: `python -m bench.decode`, `python -m bench.peers`."""
