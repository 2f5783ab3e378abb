#!/usr/bin/env bash
# Unpacks the nginx of another Debian suite, its headers and PACKAGEs with modules into a folder.
# Installs nothing.
#
#   packaging/debian-nginx.sh SUITE FOLDER [PACKAGE...]
#
# FOLDER/nginx runs here, with the libraries of its own suite. FOLDER/src and FOLDER/objs are
# NGINX_SOURCE_DIR and NGINX_BUILD_DIR to build the module for it. The modules are in FOLDER/root.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

begin_folder "$2"
unpack "$1" "nginx nginx-dev ${*:3}"
cp "$root/usr/sbin/nginx" "$folder/nginx"
use_own_libraries "$folder/nginx"
"$folder/nginx" -v

# The headers, configured with the options of this nginx.
cp -r "$root/usr/share/nginx/src" "$folder/src"
cd "$folder/src"
bash -euc '. ./conf_flags; ./configure "${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir="$1"' \
    configure "$folder/objs" > "$folder/configure.log"
end_folder
