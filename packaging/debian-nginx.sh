#!/usr/bin/env bash
# Unpacks the nginx of another Debian suite into a folder, with its headers, and installs nothing.
#
#   packaging/debian-nginx.sh SUITE FOLDER
#
# FOLDER/nginx is then an nginx that runs here, by the libraries of its own suite, and FOLDER/src
# and FOLDER/objs are NGINX_SOURCE_DIR and NGINX_BUILD_DIR of the module for it.
set -euo pipefail

suite=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
[ ! -e "$folder/complete" ] || exit 0
rm -rf "$folder"/*

root=$folder/root
"$(dirname "$0")/debian-unpack.sh" "$suite" "$root" nginx nginx-dev

libraries=$root/usr/lib/x86_64-linux-gnu
cp "$root/usr/sbin/nginx" "$folder/nginx"
patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath \
    --set-rpath "$libraries" "$folder/nginx"
"$folder/nginx" -v

# The module is for exactly this nginx: configured as it was.
cp -r "$root/usr/share/nginx/src" "$folder/src"
cd "$folder/src"
bash -euc '. ./conf_flags; ./configure "${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir="$1"' \
    configure "$folder/objs" > "$folder/configure.log"
touch "$folder/complete"
