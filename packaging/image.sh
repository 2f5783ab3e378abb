#!/usr/bin/env bash
# Builds the Docker image of nginx with the module from the last commit.
#
#   packaging/image.sh ENGINE IMAGE SUITE
#
# ENGINE is a program that builds as `docker build` does. SUITE is a Debian suite, such as bookworm.
set -euo pipefail

cd "$(dirname "$0")/.."
context=build/image
rm -rf "$context"
mkdir -p "$context"
trap 'rm -rf "$context"' EXIT
git archive HEAD | tar -x -C "$context"
"$1" build --build-arg DEBIAN="$3" -f "$context/packaging/Dockerfile" -t "$2" "$context"
