#!/bin/sh
# Builds the module for the nginx of this image, in the build stage of an image.
#
#   packaging/docker/build-module.sh FILE
#
# FILE is the module to write. `prebuilt/` in the build context may have a module that was built
# elsewhere for the same nginx, and `nginx-source/` the sources of nginx: neither is fetched then.
set -eu

out=$1
cd "$(dirname "$0")/../.."
module=ngx_http_authgear_module.so
if [ -f "prebuilt/$module" ]; then
    cp "prebuilt/$module" "$out"
    exit 0
fi

if command -v apt-get > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates \
        curl gcc libc6-dev libclang-dev libpcre2-dev libssl-dev make zlib1g-dev > /dev/null
else
    apk add --no-cache clang-dev curl gcc linux-headers make musl-dev openssl-dev pcre2-dev zlib-dev
fi

version=$(nginx -v 2>&1 | sed 's|.*nginx/\([0-9.]*\).*|\1|')
if [ ! -d nginx-source ]; then
    curl -fsSL "https://nginx.org/download/nginx-$version.tar.gz" -o nginx.tar.gz
    [ -z "${NGINX_SHA256:-}" ] || echo "$NGINX_SHA256  nginx.tar.gz" | sha256sum -c -
    mkdir nginx-source
    tar -xzf nginx.tar.gz --strip-components=1 -C nginx-source
fi
NGINX_SOURCE_DIR=nginx-source packaging/sources-for.sh "$(command -v nginx)" build/for

cargo=cargo
if [ -n "${AUDITABLE:-}" ]; then
    cargo install --quiet --locked cargo-auditable
    cargo="cargo auditable"
fi
# Unquoted: a command and its argument.
NGINX_SOURCE_DIR=$PWD/build/for/src NGINX_BUILD_DIR=$PWD/build/for/objs \
    $cargo build --release --locked --package ngx_http_authgear_module
strip --strip-debug -o "$out" target/release/libngx_http_authgear_module.so
