"""`python -m sbrt` is the command `sbrt`."""

from .cli import main

raise SystemExit(main())
