r"""Dispersion of prompts from people's rankings: `python jobs/known_dispersion.py SETS OUT [KEY] [MODEL]`.

SETS: JSON lines (gzipped where the name ends in .gz) with `responses`, objects that hold under KEY (annotator_points)
one number of each person, the same people in the same order, higher is better. OUT: the same rows with a column
`dispersion`, the index of the Mallows model fitted to the rankings of each row: MODEL is phi (Kendall) or theta
(Spearman); see `raypo.dispersion.known_index`. Then

    raypo train jobs/offline.yaml policy.path=MODEL prompts.path=OUT prompts.response_score_key=KEY \
        objective.preset=mallows-mpo dispersion.estimator=given

With few people phi is too low (`raypo.dispersion.fit`): prompts compare where each has equally many.
"""

from __future__ import annotations

import gzip
import json
import sys
from typing import Any

import torch

from raypo.dispersion import known_index
from raypo.errors import DataError, RaypoError

USAGE = "usage: python jobs/known_dispersion.py SETS OUT [KEY] [MODEL], MODEL phi or theta"


def rankings(row: dict[str, Any], key: str, place: str) -> torch.Tensor:
    """Each person's ranks of a row's responses, 0 the best: [people, responses].

    Raises:
        DataError: no numbers under the key, other people at another response, or a tie, which is no ranking.
    """
    try:
        scores = torch.tensor([[float(one) for one in response[key]] for response in row["responses"]]).double().T
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: {type(error).__name__} {error}",
            f"`responses` of objects whose {key!r} is one number of each person, of as many people at each",
            "mend the row, or name the key",
        ) from error
    if scores.dim() != 2 or not scores.numel():
        raise DataError(f"{place}: no responses, or no people", "both", "leave the row out")
    for who, mine in enumerate(scores.tolist()):
        if len(set(mine)) < len(mine):
            raise DataError(
                f"{place}: person {who} gives two responses the same number",
                "a ranking of each person: a Mallows model has no ties, and to break one would invent an opinion",
                "leave the person or the response out",
            )
    return (-scores).argsort(-1).argsort(-1)


def main(arguments: list[str]) -> None:
    """Write OUT, when all of SETS is read."""
    key, model = (arguments[2:3] or ["annotator_points"])[0], (arguments[3:4] or ["phi"])[0]
    if not 2 <= len(arguments) <= 4 or model not in ("phi", "theta"):
        sys.exit(USAGE)
    sets, place = arguments[:2]
    read = gzip.open if sets.endswith(".gz") else open
    made = []
    try:
        with read(sets, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                row["dispersion"] = known_index(rankings(row, key, f"line {number}"), model=model)
                made.append(json.dumps(row) + "\n")
    except (RaypoError, OSError, ValueError) as error:
        sys.exit(f"{sets}: {error}")
    with open(place, "w", encoding="utf-8") as file:
        file.writelines(made)


if __name__ == "__main__":
    main(sys.argv[1:])
