#!/usr/bin/env python3
"""Writes the table of systems in docs/install.md.

    packaging/install-table.py [--check]

Targets of make that build and load the module leave a file in build/ran/ when they have passed.
packaging/runs.tsv keeps those lines. A row whose target is not there says so. --check changes
nothing, and fails if the table is another.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/install.md"
RUNS = ROOT / "packaging/runs.tsv"
SOURCES = "NGINX_SOURCE_DIR=/path/to/nginx-"

# System, command, target of make that runs it here, and what that target leaves out. Without a target
# (None) the last says what was done by hand.
ROWS = [
    ("Debian 12, its nginx 1.22",
     "`make package`, then `dpkg -i build/package/libnginx-mod-http-authgear_*.deb`",
     "test-package", ""),
    ("Debian 12, its nginx 1.22, without the package", "`make build`", "test", ""),
    ("Debian 13, its nginx 1.26", "`make package` on Debian 13", "test NGINX=1.26",
     "that nginx on Debian 12, without the package"),
    ("Debian testing and unstable, their nginx 1.30", "`make package` on that system",
     "test NGINX=1.30", "that nginx on Debian 12, without the package"),
    ("nginx built from source, such as 1.28",
     f"`make build FOR=/usr/local/sbin/nginx {SOURCES}1.28.3`", "test-build",
     "the sources are those of the crate nginx-src; `make test NGINX=1.28` has the behaviours"),
    ("the same, along with nginx", "`./configure ... --add-dynamic-module=/path/to/nginx-authgear`",
     "test-build", ""),
    ("a system without apt, with its tools installed", f"`make build {SOURCES}1.28.3`",
     "test-build", "`tests/building.rs` hides apt and dpkg, and has a script in place of cargo"),
    ("Docker, Debian 12", "`make image`", "test-docker FULL=1",
     "bases of images made from Debian's packages"),
    ("Docker, official images of nginx", "`make image BASE=nginx:1.30.0`", "test-docker FULL=1",
     "a stand-in for the base, with nginx 1.22"),
    ("Docker, official images on Alpine", "`make image BASE=nginx:1.30.0-alpine`", "", ""),
    ("Alpine, its nginx", f"`make build {SOURCES}VERSION FOR=/usr/sbin/nginx`", "test-musl",
     "nginx 1.28 and its libraries built with Debian's musl, the module cross-built"),
    ("arm64", "as on amd64", "test-arm64",
     "Debian 12's nginx for arm64 run by qemu, the module cross-built"),
    ("nginx.org's packages, on any system", f"`make build {SOURCES}VERSION FOR=/usr/sbin/nginx`, "
     "with nginx-VERSION.tar.gz of nginx.org", "", ""),
    ("Ubuntu 24.04 and later, its nginx",
     "`make build`; Rust 1.85 by `apt-get install rustc-1.85 cargo-1.85` or rustup", "", ""),
    ("Fedora, RHEL 9 and later, their nginx", "`dnf install nginx-mod-devel`, then `make build`",
     "", ""),
    ("OpenResty", "`make build FOR=/path/to/nginx NGINX_SOURCE_DIR=/path/to/bundle/nginx-VERSION`: "
     "the patched sources of nginx that it was built from", None,
     "once by hand: the patches of OpenResty 1.31.3.1 on nginx 1.31.3, without its Lua, built and "
     "passed the tests of the core behaviours. No registry has its bundle, so that no target does"),
    ("Angie", "none: the crate nginx-sys does not know its structures", "", ""),
]


def runs():
    """Lines of runs.tsv, and of what ran here since: target and version of nginx."""
    lines = RUNS.read_text().splitlines() if RUNS.exists() else []
    for file in sorted((ROOT / "build/ran").glob("*")):
        lines += file.read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines)


def table(known):
    lines = ["| system and nginx | command | run here |", "|---|---|---|"]
    for system, command, target, note in ROWS:
        if target is None:
            ran, note = note, ""
        elif target in known:
            ran = f"`make {target}`, {known[target]}"
        else:
            ran = f"not run (`make {target}`)" if target else "not run"
        lines.append(f"| {system} | {command} | {ran}{note and '; ' + note} |")
    return "\n".join(lines) + "\n"


def main():
    check = "--check" in sys.argv[1:]
    if check:
        known = dict(line.split("\t", 1) for line in RUNS.read_text().splitlines())
        makefile = (ROOT / "Makefile").read_text()
        for target in sorted({row[2] or "" for row in ROWS} | set(known)):
            if target and not re.search(rf"^{target.split()[0]}:", makefile, re.M):
                sys.exit(f"packaging/install-table.py: no target {target} of make")
    else:
        known = runs()
        RUNS.write_text("".join(f"{name}\t{what}\n" for name, what in sorted(known.items())))
    old = PAGE.read_text()
    begin = old.index("| system and nginx |")
    end = old.index("\n\n", begin) + 1
    new = old[:begin] + table(known) + old[end:]
    if check and new != old:
        sys.exit("docs/install.md: the table is not that of packaging/install-table.py: run it")
    if not check:
        PAGE.write_text(new)


main()
