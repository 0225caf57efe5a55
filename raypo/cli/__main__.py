"""`python -m raypo.cli` is `raypo`."""

from raypo.cli import main

main()
