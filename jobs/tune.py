"""Run a study: `python jobs/tune.py STUDY`, also as the entrypoint of `ray job submit`."""

import sys

from raypo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "tune")
    main()
