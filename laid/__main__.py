"""``python -m laid`` is ``laid``."""

from laid.cli.main import main

if __name__ == "__main__":
    main()
