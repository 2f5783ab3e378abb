#!/usr/bin/env bash
# Builds the .deb of the module for Debian's nginx from the last commit, and checks it with lintian.
#
#   packaging/package.sh FOLDER
#
# FOLDER/*.deb are the packages. The same commit gives the same bytes in any FOLDER.
set -euo pipefail

cd "$(dirname "$0")/.."
rm -rf "${1:?}"
mkdir -p "$1/source"
folder=$(cd "$1" && pwd)
git archive HEAD | tar -x -C "$folder/source"
cd "$folder/source"
cp -r packaging/debian debian
dpkg-buildpackage --build=binary --no-check-builddeps --unsigned-source --unsigned-changes \
    > ../build.log 2>&1 || { cat ../build.log; exit 1; }
cd ..
rm -rf source
lintian --fail-on warning --tag-display-limit 0 ./*.changes
ls "$folder"/*.deb
