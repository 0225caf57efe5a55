"""The table of presets as text: for the command line and for the README, from the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping

from raypo.objective.composition import AnyObjective, Mixture, Outside
from raypo.objective.presets import TABLE, hyperparameters, preset

COLUMNS = ("preset", "prior", "dispersion", "contrast", "link", "needs", "paper", "equation")


def described(name: str, defaults: Mapping[str, float]) -> dict[str, str]:
    """One row: a text for each of COLUMNS, with hyperparameters at the row's defaults, else the given ones."""
    row = TABLE[name]
    usual = dict(defaults) | dict(row.defaults)
    objective = preset(name, **{key: usual[key] for key in hyperparameters(name)})
    told = {"preset": name, "needs": needs(objective), "paper": row.paper, "equation": row.equation}
    if isinstance(objective, Mixture):
        parts = " + ".join(f"{weight:g} {part.name}" for weight, part in objective.parts)
        return told | {"prior": parts, "dispersion": objective.dispersion, "contrast": "of its parts", "link": "-"}
    if isinstance(objective, Outside):
        given = " over the step's sets" if objective.couples_sets else ""
        return told | {"prior": f"own loss{given}", "dispersion": "none", "contrast": "-", "link": "-"}
    return told | {
        "prior": str(objective.prior) + (f" + {objective.nll:g} nll" if objective.nll else ""),
        "dispersion": objective.dispersion,
        "contrast": str(objective.contrast),
        "link": str(objective.link),
    }


def needs(objective: AnyObjective) -> str:
    """What must be there beside the policy's log-probs, in words."""
    psi = " and psi" if objective.dispersion != "none" else ""
    told = {
        "response_weights": "policy confidences",
        "eos_logps": "log-probs of the end",
        "eos_before": "chances of an end",
    }
    psi = "".join(f" and {text}" for term, text in told.items() if term in objective.terms) + psi
    if objective.reference == "moving":
        return "a live, moving reference" + psi
    if "anchor" in objective.terms and objective.needs == "reference-logits":
        return "a live reference, for mismatched pairs"
    if objective.needs == "sums":
        return ("reference sums" if objective.needs_reference else "no reference") + psi
    return objective.needs.replace("-", " ") + psi


def markdown(defaults: Mapping[str, float]) -> str:
    """The whole table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name in TABLE:
        told = described(name, defaults)
        cells = [told[column].replace("|", "\\|") for column in COLUMNS]
        cells[0] = f"`{cells[0]}`"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
