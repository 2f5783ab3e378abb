#!/usr/bin/env bash
# Pushes an image with Docker, and prints `digest=` and its digest, which is what an attestation is
# about. In a workflow of GitHub the line is an output of the step.
#
#   packaging/push-image.sh IMAGE
set -euo pipefail

docker push --quiet "$1"
digest=$(docker inspect -f '{{index .RepoDigests 0}}' "$1")
echo "digest=${digest#*@}" | tee -a "${GITHUB_OUTPUT:-/dev/null}"
