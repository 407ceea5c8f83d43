"""Stands between containerd and runc, and edits what runc is asked to do. Run as a script, not imported.

Every container goes into the control group of its cluster, so that `down` finds and removes what the kernel keeps.

Where the machine itself lacks CAP_SYS_RESOURCE, nobody may lower oom_score_adj, raise a limit or pass the capability
on, yet containerd asks runc to do all three; runc then dies with "can't get final child's PID from pipe: EOF". There,
what cannot be granted is taken out of the request.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from typing import Any


def main(group: str, limited: bool, runc: str, arguments: list[str]) -> None:
    """Edit the request that the arguments point at, if any, and become runc."""
    for option, value in pairwise(arguments):
        if option in {"--bundle", "-b"}:
            edit(os.path.join(value, "config.json"), group, limited)
        elif option in {"--process", "-p"}:
            edit(value, group, limited)
    os.execv(runc, [runc, *arguments])


def edit(path: str, group: str, limited: bool) -> None:
    """Edit the description of a container, or of a command in one."""
    with open(path, encoding="utf-8") as file:
        description: dict[str, Any] = json.load(file)
    if "process" in description:
        linux = description["linux"]
        linux["cgroupsPath"] = f"/{group}/{os.path.basename(linux['cgroupsPath'])}"
    if limited:
        drop_what_takes_sys_resource(description.get("process", description))  # `runc exec` is given the process alone
    with open(path, "w", encoding="utf-8") as file:
        json.dump(description, file)


def drop_what_takes_sys_resource(process: dict[str, Any]) -> None:
    """Take out of a process's description what this machine cannot grant."""
    process["oomScoreAdj"] = max(0, process.get("oomScoreAdj", 0))
    process.pop("rlimits", None)
    for names in (process.get("capabilities") or {}).values():
        if "CAP_SYS_RESOURCE" in names:
            names.remove("CAP_SYS_RESOURCE")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "limited", sys.argv[3], sys.argv[4:])
