#!/bin/sh
# Notes that a target of make has passed here, for the table of docs/install.md.
#
#   packaging/ran.sh TARGET BINARY
#
# BINARY is the nginx that loaded the module.
set -eu
cd "$(dirname "$0")/.."
version=$("$2" -v 2>&1 | sed -n 's|^nginx version: nginx/\([0-9.]*\).*|nginx \1|p')
mkdir -p build/ran
printf '%s\t%s\n' "$1" "$version" > "build/ran/$(echo "$1" | tr ' ' '-')"
