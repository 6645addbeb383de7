"""`python -m nasopt`: the same as the command `nasopt`."""

import sys

from nasopt.cli import main

sys.exit(main())
