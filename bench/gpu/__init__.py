"""Tools for a CUDA device: a short decode for profilers, calls of profilers, transformers as a
comparison, timing, and estimated costs."""
