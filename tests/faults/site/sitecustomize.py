"""Python imports this module when it starts. It puts PYTHONPATH before editable installs."""

import sys

sys.meta_path.sort(key=lambda finder: type(finder).__module__.startswith("_editable_"))
