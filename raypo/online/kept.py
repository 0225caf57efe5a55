"""What a folder of `raypo sample` or `raypo evaluate` holds: its record is written once, and no other goes on there.

Parts of two configs, weights or versions in one folder would be the result of neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypo.errors import ConfigError, IntegrityError, OutputError
from raypo.online.identity import WEIGHTS, changed_fields, told
from raypo.stages import tables

SHOWN = 5  # fields of a refusal


def keep_record(out: Path, name: str, record: dict[str, Any], *, what: str) -> None:
    """Write what a folder holds; the same command again keeps what it has.

    Args:
        out: the folder.
        name: of the record's file.
        record: JSON object. Its `policy_weights` may be None where they are not known.
        what: the folder holds, in two words.

    Raises:
        ConfigError: it holds another one, what differs is named; or its record does not say what this one says.
        IntegrityError: the record is damaged.
        OutputError: the folder cannot be written, or the storage does not answer.
    """
    known = tables.read_json(tables.join(str(out), name))
    if known is None:
        write_json(out, name, record)
        return
    remedy = "choose another --out, or remove the folder"
    if not isinstance(known, dict):
        raise IntegrityError(f"{out / name} is no JSON object", f"the record of {what}", remedy)
    if silent := [key for key in record if key not in known]:
        raise ConfigError(
            f"{out} holds {what} whose record does not say {', '.join(silent)}: it may be of others",
            f"a record with {', '.join(record)}",
            remedy,
        )
    changed = changed_fields(known, record)
    if known.get(WEIGHTS) is None or record.get(WEIGHTS) is None:
        changed.pop(WEIGHTS, None)
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ConfigError(
            f"{out} holds {what}; changed: {told(dict(list(changed.items())[:SHOWN]))}{more}",
            f"what it was started with: {', '.join(record)}",
            remedy,
        )


def write_json(out: Path, name: str, tree: Any) -> None:
    """Write a JSON file of the folder, whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        tables.write_json(tables.join(str(out), name), tree)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error}", "a writable folder", "choose another --out") from error
