"""``python -m scale_toolkit``: the same as ``scale``."""

from scale_toolkit.cli.app import main

if __name__ == "__main__":
    main()
