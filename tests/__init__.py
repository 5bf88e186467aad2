"""The tests. They are a package, so that `python -m tests.device.check` and `from tests...`
work."""
