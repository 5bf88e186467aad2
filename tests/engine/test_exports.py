"""Contract under test: our modules change nothing in libraries that are loaded later. If the core
is imported first, all libraries use the C++ runtime that the core loads. operator new must be that
runtime's own, not one that our modules define."""

import ctypes
import subprocess
import sys

import pytest

RUNTIME = "libstdc++.so.6"
NEW = "_Znwm"
ALIGNED_NEW = "_ZnwmSt11align_val_tRKSt9nothrow_t"  # the operator new that LLVM calls

LOOK = f"""
import ctypes, importlib, sys
module = importlib.import_module(sys.argv[1])
from sbrt import _core
runtime, ours = ctypes.CDLL("{RUNTIME}"), ctypes.CDLL(module.__file__)
address = lambda library: ctypes.cast(library.{NEW}, ctypes.c_void_p).value
new = runtime["{ALIGNED_NEW}"]
new.restype, new.argtypes = ctypes.c_void_p, (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_char_p)
before = _core.allocation_count()
made = [new(64, align, b"") for align in (1, 2, 4, 8, 64)]
counted = _core.allocation_count() - before
print(address(runtime) == address(ours), all(made), counted)
"""


@pytest.mark.parametrize("module", ["sbrt._core", "sbrt._probe"])
def test_operator_new_stays_that_of_the_runtime(module):
    try:
        ctypes.CDLL(RUNTIME)
    except OSError:
        pytest.skip(f"{RUNTIME}: expected the C++ runtime of GCC, found none")
    done = subprocess.run([sys.executable, "-c", LOOK, module], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True 0\n", "")
