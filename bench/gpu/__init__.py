"""Tools for a CUDA device: a short decode, profilers, transformers on the device, timing, estimated
costs."""
