#!/usr/bin/env bash
# Puts files of a release into a folder.
#
#   packaging/dist.sh package FOLDER PACKAGES       Debian's packages, with the suite in their names
#   packaging/dist.sh module FOLDER IMAGE BASE      the module in an image, which is built on BASE
#   packaging/dist.sh sbom FOLDER CARGO-CYCLONEDX   the dependencies of the module and of the checker
#   packaging/dist.sh checksums FOLDER              SHA256SUMS of all of them
set -euo pipefail

cd "$(dirname "$0")/.."
mkdir -p "$2"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
case $1 in
    package)
        suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
        for deb in "$3"/libnginx-mod-http-authgear_*.deb; do
            name=$(basename "$deb")
            cp "$deb" "$2/${name/_"$(dpkg --print-architecture)".deb/_${suite}_$(dpkg --print-architecture).deb}"
        done
        ;;
    module)
        libc=glibc
        case $4 in *-alpine*) libc=musl ;; esac
        nginx=$(docker run --rm --network none --entrypoint nginx "$3" -v 2>&1 \
            | sed -n 's|^nginx version: [^/]*/\([0-9.]*\).*|\1|p')
        container=$(docker create "$3")
        trap 'docker rm "$container" > /dev/null' EXIT
        docker cp -L "$container:/usr/lib/nginx/modules/ngx_http_authgear_module.so" \
            "$2/ngx_http_authgear_module-$version-nginx-$nginx-$libc-$(uname -m).so"
        ;;
    sbom)
        # One file beside each Cargo.toml; those of the two that are shipped are kept.
        PATH="$(dirname "$3"):$PATH" cargo cyclonedx --quiet --format json --spec-version 1.5 \
            --target all --override-filename "authgear-sbom"
        mv authgear-sbom.json "$2/ngx_http_authgear_module-$version.cdx.json"
        mv check/authgear-sbom.json "$2/authgear-check-$version.cdx.json"
        rm -f ./*/authgear-sbom.json
        ;;
    checksums)
        cd "$2"
        find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0r sha256sum > SHA256SUMS
        cat SHA256SUMS
        ;;
    *) echo "unknown: $1" >&2; exit 1 ;;
esac
