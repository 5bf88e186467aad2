"""The GPU lane. Its decoder consists of torch ops and our Triton kernels. Python records them once,
and C++ replays them.

It is imported only where it is needed (`EngineConfig(device="cuda")`), never by `import sbrt`,
because it imports torch. On a CPU the same recordings run as lists of calls, so that tests need no
device.
"""
