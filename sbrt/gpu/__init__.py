"""The GPU lane: a decoder in torch and our Triton kernels, recorded once, replayed by C++.

Imported by whoever asks for it (`EngineConfig(device="cuda")`), and never by `import sbrt`: torch
comes with it. On a CPU the same recordings run as lists of calls, so that all of it is tested
without a device.
"""
