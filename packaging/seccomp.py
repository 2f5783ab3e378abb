#!/usr/bin/env python3
"""Prints the system calls of systemd's SETs as a profile of seccomp for Docker.

    packaging/seccomp.py SET...
"""

import json
import subprocess
import sys


def calls(name):
    """The calls of a set, and of the sets in it."""
    listed = subprocess.check_output(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], text=True
    )
    for line in listed.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            yield from calls(word)
        elif word and not word.startswith("#"):
            yield word


names = sorted({call for name in sys.argv[1:] for call in calls(name)})
allowed = [{"names": names, "action": "SCMP_ACT_ALLOW"}]
json.dump({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": allowed}, sys.stdout)
