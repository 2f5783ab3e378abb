#!/bin/sh
# Proves that an nginx loads the module: by nginx -t, with a configuration of its own.
#
#   packaging/prove.sh BINARY MODULE
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
module=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cat > "$folder/nginx.conf" <<END
load_module $module;
pid $folder/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    server { listen 127.0.0.1:8080; authgear https://192.0.2.1; }
}
END
if ! output=$("$1" -t -q -e stderr -p "$folder" -c "$folder/nginx.conf" 2>&1); then
    echo "$1 does not load $2: $(echo "$output" | grep -m 1 emerg || echo "$output")" >&2
    exit 1
fi
echo "$1 -t loads $2"
