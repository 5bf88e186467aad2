"""Commands that measure sbrt, such as `python -m bench.decode`, `bench.kernels` and
`bench.peers`."""
