"""The tests. A package, so that `python -m tests.device.check` and `from tests...` find it."""
