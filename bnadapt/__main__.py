"""``python -m bnadapt``."""

from bnadapt.cli import main

if __name__ == "__main__":
    main()
