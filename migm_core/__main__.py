"""`python -m migm_core` is the command `migm`."""

import sys

from .cli import main

sys.exit(main())
