"""Stands in for runc where the machine itself lacks CAP_SYS_RESOURCE. Run as a script, not imported.

Without that capability nobody may lower oom_score_adj, raise a limit or pass the capability on, yet containerd asks
runc to do all three; runc then dies with "can't get final child's PID from pipe: EOF". What cannot be granted is taken
out of the request.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from typing import Any


def main(runc: str, arguments: list[str]) -> None:
    """Edit the request that the arguments point at, if any, and become runc."""
    for option, value in pairwise(arguments):
        if option in {"--bundle", "-b"}:
            edit(os.path.join(value, "config.json"))
        elif option in {"--process", "-p"}:
            edit(value)
    os.execv(runc, [runc, *arguments])


def edit(path: str) -> None:
    """Take out of a container's or a command's description what this machine cannot do."""
    try:
        with open(path, encoding="utf-8") as file:
            description: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return
    process = description.get("process", description)  # `runc exec` is given the process alone
    if process.get("oomScoreAdj", 0) < 0:
        process["oomScoreAdj"] = 0
    process.pop("rlimits", None)
    for names in (process.get("capabilities") or {}).values():
        if "CAP_SYS_RESOURCE" in names:
            names.remove("CAP_SYS_RESOURCE")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(description, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
