"""Tools around a CUDA device: a short decode, profilers, transformers on one, and timing."""
