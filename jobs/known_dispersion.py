r"""Dispersion of prompts from people's rankings: `python jobs/known_dispersion.py SETS OUT [KEY] [MODEL]`.

SETS: JSON lines (gzipped where the name ends in .gz) with `responses`, objects that hold under KEY (annotator_points)
one number of each person, the same people in the same order, higher is better; two people and two responses at least.
OUT: the same rows (gzipped likewise; whole or not written) with a column `dispersion`, the index of the Mallows model
fitted to the rankings of each row: MODEL is phi (Kendall) or theta (Spearman); see `raypo.dispersion.known_index`. Then

    raypo train jobs/offline.yaml policy.path=MODEL prompts.path=OUT prompts.response_score_key=KEY \
        objective.preset=mallows-mpo dispersion.estimator=given

With few people phi is too low (`raypo.dispersion.fit`): prompts compare where each has equally many.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from raypo.data.lines import numbered, write_whole
from raypo.dispersion import known_index
from raypo.errors import DataError, RaypoError

USAGE = "usage: python jobs/known_dispersion.py SETS OUT [KEY] [MODEL], MODEL phi or theta"


def rankings(row: dict[str, Any], key: str, place: str) -> torch.Tensor:
    """Each person's ranks of a row's responses, 0 the best: [people, responses].

    Raises:
        DataError: no numbers under the key, other people at another response, one person or one response alone, a
            number that is not finite, or a tie, which is no ranking.
    """
    try:
        scores = torch.tensor([[float(one) for one in response[key]] for response in row["responses"]]).double().T
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: {type(error).__name__} {error}",
            f"`responses` of objects whose {key!r} is one number of each person, of as many people at each",
            "mend the row, or name the key",
        ) from error
    people, responses = scores.shape if scores.dim() == 2 else (0, len(scores))
    if people < 2 or responses < 2:
        raise DataError(
            f"{place}: {responses} responses and {people} people",
            "two at least of both: one ranking, or rankings of one response, say nothing of dispersion",
            "leave the row out",
        )
    for who, mine in enumerate(scores.tolist()):
        if not all(map(math.isfinite, mine)):
            raise DataError(f"{place}: person {who} gives {mine}", "finite numbers", "leave the person out")
        if len(set(mine)) < len(mine):
            raise DataError(
                f"{place}: person {who} gives two responses the same number",
                "a ranking of each person: a Mallows model has no ties, and to break one would invent an opinion",
                "leave the person or the response out",
            )
    return (-scores).argsort(-1).argsort(-1)


def known(row: dict[str, Any], key: str, model: str, place: str) -> dict[str, Any]:
    """The row with its `dispersion`.

    Raises:
        DataError: as of `rankings`, or more responses than can be fitted.
    """
    ranks = rankings(row, key, place)
    try:
        return {**row, "dispersion": known_index(ranks, model=model)}
    except ValueError as error:
        raise DataError(f"{place}: {error}", "rankings that a Mallows model can be fitted to") from error


def main(arguments: list[str]) -> None:
    """Write OUT, when all of SETS is read."""
    key, model = (arguments[2:3] or ["annotator_points"])[0], (arguments[3:4] or ["phi"])[0]
    if not 2 <= len(arguments) <= 4 or model not in ("phi", "theta"):
        sys.exit(USAGE)
    sets, place = arguments[:2]
    try:
        write_whole(place, (known(row, key, model, f"{sets}, line {number}") for number, row in numbered(sets)))
    except RaypoError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
