"""What can be checked on a CUDA device alone; `check` runs it (docs/gpu-check.md)."""
