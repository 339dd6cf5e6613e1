"""``python -m btm.cli`` is ``btm``."""

import sys

from btm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
