#!/usr/bin/env bash
# Builds the nginx whose sources are in crate nginx-src, with the options that the tests need.
# Installs nothing.
#
#   packaging/crate-nginx.sh VERSION FOLDER [asan]
#
# VERSION is that of the crate, such as 1.28. FOLDER/nginx is the binary. FOLDER/src and
# FOLDER/objs are NGINX_SOURCE_DIR and NGINX_BUILD_DIR to build the module for it. With `asan`
# nginx has AddressSanitizer and LeakSanitizer, and NGX_DEBUG_PALLOC makes its pools take each
# allocation from malloc(), so that AddressSanitizer sees an overrun within a pool.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/debian.sh"
source "$here/nginx-sources.sh"

begin_folder "$2"
sources=$(crate_sources "~$1" "$folder/fetch")
[ -n "$sources" ] || fail "no release $1 of the crate nginx-src"
cp -r "$sources" "$folder/src"

cc_flags=-fPIC
ld_flags=-Wl,-E
if [ "${3:-}" = asan ]; then
    cc_flags+=' -fsanitize=address -fno-omit-frame-pointer -O1 -g -DNGX_DEBUG_PALLOC=1'
    ld_flags+=' -fsanitize=address'
fi
cd "$folder/src"
# Those of Debian's options that the tests need.
auto/configure --with-compat --with-debug --with-threads --with-pcre-jit --with-http_ssl_module \
    --with-http_v2_module --with-http_v3_module --with-http_realip_module \
    --with-http_auth_request_module --with-http_dav_module \
    --with-http_addition_module --with-http_sub_module --with-http_slice_module \
    --with-http_stub_status_module --with-http_gunzip_module --with-http_gzip_static_module \
    --with-cc-opt="$cc_flags" --with-ld-opt="$ld_flags" --builddir="$folder/objs" \
    > "$folder/configure.log"
make -j "$(nproc)" > "$folder/make.log"
cp "$folder/objs/nginx" "$folder/nginx"
end_folder
