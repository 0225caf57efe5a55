"""Train offline on given sets: `python jobs/train.py CONFIG [key=value ...]`, also for `ray job submit`."""

import sys

from raypo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
