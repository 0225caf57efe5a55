"""raypo.data.manifest: what was written is read back, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raypo.data.manifest import opened, sealed

TREE = {"files": {"a": 3}, "rows": 2, "facts": {"scale": 0.1, "steps": (1, 2), "by": {4: "four"}}}


def read_back(tree: dict[str, Any]) -> Any:
    """As its reader has it."""
    return json.loads(json.dumps(tree))


def test_what_was_sealed_is_opened() -> None:
    """Tuples are lists by then, and keys strings; a manifest without a seal is believed."""
    facts = {"scale": 0.1, "steps": [1, 2], "by": {"4": "four"}}
    assert opened(read_back(sealed(TREE)), rows=int, facts=dict) == {"files": {"a": 3}, "rows": 2, "facts": facts}
    assert opened(read_back(TREE))["facts"] == facts


def test_any_other_number_in_the_facts_breaks_the_seal() -> None:
    """0.1 and 0.3 differ in one bit of one character."""
    text = json.dumps(sealed(TREE))
    assert ord("1") ^ ord("3") == 2
    with pytest.raises(ValueError, match="not what was written"):
        opened(json.loads(text.replace("0.1", "0.3")))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"files": {}}, "'files' are {}"),
        ({"files": 3}, "'files' are 3"),
        ({"files": []}, "'files' are"),
        ({"files": {"a": "3"}}, "'files' are"),
        ({"rows": "2"}, "'rows' is '2'"),
        ({"facts": []}, "'facts' is"),
    ],
)
def test_a_field_of_another_kind_is_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        opened(read_back(TREE | changes), rows=int, facts=dict)
    with pytest.raises(ValueError, match="no JSON object"):
        opened([])
