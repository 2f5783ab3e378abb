#!/usr/bin/env bash
# Builds the Docker image and runs it without Docker and without a registry. Uses buildah, and
# base images that it makes from Debian's packages and this machine's Rust. Needs root.
#
#   packaging/test-image.sh FOLDER
set -euo pipefail
source "$(dirname "$0")/debian.sh"

mkdir -p "$1"
folder=$(cd "$1" && pwd)
buildah() { command buildah --root "$folder/storage" --runroot "$folder/run" "$@"; }
nginx=
end() {
    [ -z "$nginx" ] || kill -QUIT "$nginx" 2>/dev/null || true
    buildah rm --all >/dev/null 2>&1 || true
    buildah rmi --all --force >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap end EXIT

debootstrap --variant=minbase bookworm "$folder/debian" "$(mirror)" >/dev/null
container=$(buildah from scratch)
cp -a "$folder/debian/." "$(buildah mount "$container")"
rm -rf "$folder/debian"
buildah commit -q --rm "$container" docker.io/library/debian:bookworm-slim

container=$(buildah from --pull-never docker.io/library/debian:bookworm-slim)
root=$(buildah mount "$container")
cp -a "$(rustc --print sysroot)" "$root/usr/local/rust"
buildah config --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah run --isolation chroot "$container" -- sh -euc 'apt-get update -qq
    apt-get install -y -qq --no-install-recommends gcc libc6-dev make ca-certificates' >/dev/null 2>&1
# Certificate authorities of this machine: crates.io may be reached through a proxy.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
buildah commit -q --rm "$container" docker.io/library/rust:1-bookworm

cat > "$folder/engine" <<END
#!/bin/sh
shift
exec buildah --root "$folder/storage" --runroot "$folder/run" build --isolation chroot --pull-never "\$@"
END
chmod +x "$folder/engine"
make --no-print-directory image ENGINE="$folder/engine" > "$folder/build.log" 2>&1 \
    || { cat "$folder/build.log"; exit 1; }

mkdir -p "$folder/conf.d" "$folder/shared"
cat > "$folder/conf.d/site.conf" <<'END'
server {
    listen unix:/shared/nginx.sock;
    authgear https://192.0.2.1;
    location / { authgear_require session; empty_gif; }
    location = /status { authgear off; authgear_status; }
}
END
container=$(buildah from --pull-never localhost/nginx-authgear)
buildah run --isolation chroot -v "$folder/conf.d:/etc/nginx/conf.d:ro" -v "$folder/shared:/shared" \
    "$container" -- nginx -g 'daemon off;' > "$folder/log" 2>&1 &
nginx=$!
ask() { curl -sS --retry 20 --retry-delay 1 --retry-all-errors --unix-socket "$folder/shared/nginx.sock" "$@"; }
ask -f http://localhost/status | grep -q '"build":{"version":'
[ "$(ask -o /dev/null -w '%{http_code}' http://localhost/)" = 401 ] || { cat "$folder/log"; exit 1; }
buildah run --isolation chroot "$container" -- sh -c 'kill -QUIT $(cat /run/nginx.pid)' || pkill -QUIT -f 'nginx: master process nginx -g daemon off'
wait "$nginx"
nginx=
grep -q '"GET / HTTP/1.1" 401' "$folder/log"
echo "the image was built and run"
