"""`python -m promptclip`."""

import sys

from promptclip.cli import main

sys.exit(main())
