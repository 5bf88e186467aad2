"""The GPU lane: a decoder in torch and our Triton kernels, recorded once, replayed by C++.

It is imported only where it is needed (`EngineConfig(device="cuda")`), never by `import sbrt`,
because it imports torch. On a CPU the same recordings run as lists of calls, so that all of it is
tested without a device.
"""
