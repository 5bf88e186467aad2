"""Checks that need a CUDA device; `check` runs them (docs/gpu-check.md)."""
