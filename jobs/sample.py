"""Sample a policy's responses: `python jobs/sample.py CONFIG [key=value ...] --out DIR`, also for `ray job submit`."""

import sys

from raypo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "sample")
    main()
