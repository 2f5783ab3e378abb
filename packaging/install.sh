#!/usr/bin/env bash
# Installs the Debian packages that are missing, and names them. Does nothing if none is.
#
#   packaging/install.sh PACKAGE...
set -euo pipefail

missing=()
for package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
        || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing ${missing[*]} (apt-get)"
# Two targets may run at a time: they take turns by a lock on this file.
exec 9< "$0"
flock 9
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
