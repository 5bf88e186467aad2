"""Set before any test module can import triton, which reads it once, when it is imported."""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():  # no GPU: kernels run in Triton's interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")
