"""Loads the extension modules next to the file SBRT_CORE, in child processes too.

They become sbrt._core and sbrt._probe. Python imports a module of this name when it starts.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

core = Path(os.environ["SBRT_CORE"])
for name in ("_core", "_probe"):  # in this order, because _probe imports _core
    file = core.with_name(core.name.replace("_core", name, 1))
    spec = spec_from_file_location(f"sbrt.{name}", file)
    sys.modules[f"sbrt.{name}"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[f"sbrt.{name}"])
