"""Compare policies on held-out prompts: `python jobs/evaluate.py CONFIG_OR_RUN --policy METHOD=FOLDER ... --out DIR`.

Also as the entrypoint of `ray job submit`.
"""

import sys

from raypo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
