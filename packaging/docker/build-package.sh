#!/bin/sh
# Builds Debian's package of the module, in the build stage of an image.
#
#   packaging/docker/build-package.sh FOLDER
#
# FOLDER receives the .deb. `prebuilt/` in the build context may have one that was built elsewhere.
set -eu

mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
if ls prebuilt/libnginx-mod-http-authgear_*.deb > /dev/null 2>&1; then
    cp prebuilt/libnginx-mod-http-authgear_*.deb "$out"
    exit 0
fi

apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates \
    debhelper gcc libc6-dev libclang-dev make nginx-dev > /dev/null
cp -r packaging/debian debian
# Cargo is not a package in these images.
dpkg-buildpackage --build=binary --no-check-builddeps --unsigned-source --unsigned-changes
mv ../libnginx-mod-http-authgear_*.deb "$out"
