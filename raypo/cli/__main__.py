"""`python -m raypo.cli`."""

from raypo.cli import main

if __name__ == "__main__":
    main()
