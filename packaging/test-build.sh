#!/usr/bin/env bash
# Builds the module in each way that there is, for an nginx that then loads it.
#
#   packaging/test-build.sh NGINX FOLDER [quick]
#
# crate-nginx.sh made the folder NGINX, with the binary, its sources and where they are configured.
# `quick` builds without optimisation, as `make dev` does.
set -euo pipefail

cd "$(dirname "$0")/.."
made=$(cd "$1" && pwd)
nginx=$made/nginx
mkdir -p "$2"
folder=$(cd "$2" && pwd)
# What cargo compiled before is used; the next `make build` makes the module for its nginx again.
target=$PWD/target
if [ "${3:-}" = quick ]; then
    target=$folder/target
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64 CARGO_PROFILE_RELEASE_INCREMENTAL=true
fi
so=$target/release/libngx_http_authgear_module.so

make build FOR="$nginx" TARGET="$target"

rm "$so"
make build NGINX_SOURCE_DIR="$made/src" NGINX_BUILD_DIR="$made/objs" TARGET="$target"
packaging/prove.sh "$nginx" "$so"

rm -rf "$folder/configured"
cp -r "$made/src" "$folder/configured"
(
    cd "$folder/configured"
    arguments=$("$nginx" -V 2>&1 | sed -n 's/^configure arguments: //p')
    eval "auto/configure $arguments" --builddir=objs --add-dynamic-module="$OLDPWD" > configure.log
    mkdir -p objs
    ln -sfn "$target" objs/authgear
    make -f objs/Makefile modules
)
packaging/prove.sh "$nginx" "$folder/configured/objs/ngx_http_authgear_module.so"
echo "the module was built in each way"
