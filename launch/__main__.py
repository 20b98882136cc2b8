"""`python -m launch` is `ddprun`."""

import sys

from launch.cli import main

sys.exit(main())
