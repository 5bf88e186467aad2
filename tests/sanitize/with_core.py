"""`python with_core.py CORE ARGS...`: runs `python ARGS...` with the file CORE as sbrt._core."""

import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location

core, *rest = sys.argv[1:]
spec = spec_from_file_location("sbrt._core", core)
sys.modules["sbrt._core"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["sbrt._core"])
if rest[0] == "-m":
    sys.argv = rest[1:]
    runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
else:
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")
