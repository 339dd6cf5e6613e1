"""``python -m btm.cli`` is ``btm``."""

from btm.cli.main import main

if __name__ == "__main__":
    main()
