#!/usr/bin/env python3
"""Writes the licence notices of the crates that are linked into the module and authgear-check.

    packaging/notices.py          writes NOTICE
    packaging/notices.py --check  fails if NOTICE is not what would be written

Of a crate under several licences the first of ORDER is used. Fails if a crate has no text for it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARGO = os.environ.get("CARGO", "cargo")
TARGET = "x86_64-unknown-linux-gnu"
BINARIES = ["ngx_http_authgear_module", "authgear-check"]
# Files that hold the text of a licence; the later ones for crates with one licence only.
ORDER = ["LICENSE-MIT*", "LICENSE_MIT*", "LICENSE-APACHE*", "LICENSE*", "COPYING*", "license*"]
HEAD = """\
Notices of the code of others that is linked into the module and into authgear-check.
Written by packaging/notices.py, from Cargo.lock. Do not edit.

Rust's standard library is linked in too: copyright The Rust Project Developers, under the Apache
License, Version 2.0, as this project is.
"""


def cargo(*arguments):
    command = [CARGO, *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked():
    """Names and versions of the crates that are linked in."""
    crates = set()
    for binary in BINARIES:
        tree = cargo("tree", "-p", binary, "--target", TARGET, "-e", "normal,no-proc-macro",
                     "--prefix", "none", "--format", "{p}")
        crates.update(tuple(line.split(" ")[:2]) for line in tree.splitlines() if line)
    return {(name, version.removeprefix("v")) for name, version in crates}


def texts(folder, name):
    """The notices of a crate, as text."""
    for pattern in ORDER:
        files = sorted(file for file in folder.glob(pattern) if file.is_file())
        if files:
            return [file.read_text() for file in files]
    sys.exit(f"{name} has no text of its licence in {folder}")


def clean(text):
    """Lines without blanks at their ends, and with one blank line at most between them."""
    lines = "\n".join(line.rstrip() for line in text.expandtabs().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def notices():
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", TARGET))
    crates, by_text = linked(), {}
    for package in metadata["packages"]:
        key = (package["name"], package["version"])
        if key not in crates or package["source"] is None:
            continue
        title = f"{key[0]} {key[1]} ({package['license']})"
        for text in texts(Path(package["manifest_path"]).parent, title):
            by_text.setdefault(clean(text), set()).add(title)
    parts = [HEAD]
    for text, titles in sorted(by_text.items(), key=lambda item: sorted(item[1])):
        parts.append("\n".join(["-" * 80, *sorted(titles), "", text, ""]))
    return "\n".join(parts)


def main():
    notice = ROOT / "NOTICE"
    if sys.argv[1:] == ["--check"]:
        if not notice.is_file() or notice.read_text() != notices():
            sys.exit("NOTICE is not that of Cargo.lock: run packaging/notices.py")
    else:
        notice.write_text(notices())


if __name__ == "__main__":
    main()
