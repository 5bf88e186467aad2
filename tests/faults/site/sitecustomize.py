"""Python imports this when it starts: PYTHONPATH comes before an editable install."""

import sys

sys.meta_path.sort(key=lambda finder: type(finder).__module__.startswith("_editable_"))
