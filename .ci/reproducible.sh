#!/usr/bin/env bash
# Builds the .deb once more, in another folder and with another Cargo home, and fails unless its
# bytes are those of the packages in FOLDER.
#
#   .ci/reproducible.sh FOLDER
set -euo pipefail

folder=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" CARGO_HOME=$dir/cargo \
    "$(dirname "$0")/../packaging/package.sh" "$dir/another/folder/package"
for deb in "$folder"/*.deb; do
    cmp "$deb" "$dir/another/folder/package/${deb##*/}"
done
echo "the packages are the same, byte for byte"
