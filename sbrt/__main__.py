"""`python -m sbrt` is the command `sbrt`."""

from .tools.cli import main

raise SystemExit(main())
