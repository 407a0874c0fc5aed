"""`python -m lary_policy.cli`."""

import sys

from lary_policy.cli import main

sys.exit(main())
