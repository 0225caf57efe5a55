"""Align a policy online: `python jobs/align.py CONFIG [key=value ...]`, also as the entrypoint of `ray job submit`."""

import sys

from raypo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
