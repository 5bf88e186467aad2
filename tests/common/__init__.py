"""Helpers that tests of several rooms share: fixtures (`tiny`, `nvcc`) and engines over toys
(`toys`)."""
