"""The GPU lane. Its decoder consists of torch ops and our Triton kernels. Python records them once,
and C++ replays them.

`import sbrt` never imports this package, because the package imports torch. It is imported only if
`EngineConfig(device="cuda")` needs it. On a CPU the same recordings run as lists of calls, so tests
need no device.
"""
