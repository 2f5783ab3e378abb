#!/usr/bin/env bash
# Builds an nginx with AddressSanitizer and LeakSanitizer from the sources in crate nginx-src.
#
#   packaging/asan-nginx.sh FOLDER
#
# FOLDER/nginx is the binary. FOLDER/src and FOLDER/src/objs are NGINX_SOURCE_DIR and
# NGINX_BUILD_DIR to build the module for it. NGX_DEBUG_PALLOC makes nginx's pools take each
# allocation from malloc(), so that AddressSanitizer sees an overrun within a pool.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

begin_folder "$1"

mkdir -p "$folder/fetch/src"
: > "$folder/fetch/src/lib.rs"
printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nnginx-src = "1.28"\n[workspace]\n' \
    > "$folder/fetch/Cargo.toml"
manifest=$(cargo metadata --quiet --format-version 1 --manifest-path "$folder/fetch/Cargo.toml" \
    | grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*"' | cut -d '"' -f 4)
cp -r "$(dirname "$manifest")/nginx" "$folder/src"

cd "$folder/src"
flags='-fsanitize=address -fno-omit-frame-pointer -O1 -g -DNGX_DEBUG_PALLOC=1'
# Those of Debian's options that the tests need.
auto/configure --with-compat --with-debug --with-threads --with-pcre-jit --with-http_ssl_module \
    --with-http_v2_module --with-http_v3_module --with-http_realip_module \
    --with-http_auth_request_module --with-http_dav_module \
    --with-http_addition_module --with-http_sub_module --with-http_slice_module \
    --with-http_stub_status_module --with-http_gunzip_module --with-http_gzip_static_module \
    --with-cc-opt="$flags -fPIC" --with-ld-opt='-fsanitize=address -Wl,-E' > "$folder/configure.log"
make -j "$(nproc)" > "$folder/make.log"
cp objs/nginx "$folder/nginx"
end_folder
