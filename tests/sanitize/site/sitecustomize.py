"""Loads the extension module from the file SBRT_CORE as sbrt._core, in child processes too.

Python imports a module of this name when it starts.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("sbrt._core", os.environ["SBRT_CORE"])
sys.modules["sbrt._core"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["sbrt._core"])
