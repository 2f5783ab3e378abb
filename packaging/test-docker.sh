#!/usr/bin/env bash
# Builds the images with Docker, and runs them. Needs root, and no registry of images: the images that
# ours are built on are made here from Debian's packages, and have the names of the official ones.
#
#   packaging/test-docker.sh FOLDER MODULE DEMO [full]
#
# MODULE is the module for Debian's nginx, and DEMO the program of `make demo`. `full` builds the module
# in the images instead, with the Rust of this machine, and tries nothing else. Docker's engine is
# started by hand, with its data in FOLDER: an engine that runs already may have the official images.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

mkdir -p "$1"
folder=$(cd "$1" && pwd)
module=$(realpath "$2") demo=$(realpath "$3") full=${4:-}
cd "$(dirname "$0")/.."
suite=bookworm
nginx=nginx:1.22.1
rust=$(mktemp -d)

# The engine gets no bridge and no rule of the firewall: builds use this machine's network, and
# containers have no network but their loopback.
export DOCKER_HOST=unix://$folder/docker.sock DOCKER_BUILDKIT=0
dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/docker.pid" \
    --host "$DOCKER_HOST" --bridge none --iptables=false --ip-forward=false > "$folder/engine.log" 2>&1 &
engine=$! registry=
end() {
    local status=$?
    trap - EXIT
    docker ps -aq 2> /dev/null | xargs -r docker rm -f > /dev/null 2>&1 || true
    docker network prune -f > /dev/null 2>&1 || true
    [ -z "$registry" ] || kill "$registry" 2> /dev/null || true
    kill "$engine" && wait "$engine" || true
    umount "$folder/exec/netns/default" 2> /dev/null || true
    rm -rf "$rust" "$folder/data" "$folder/exec"
    exit "$status"
}
trap end EXIT
for _ in $(seq 100); do docker version > /dev/null 2>&1 && break; sleep 0.1; done

say() { echo "$(date +%T) $*"; }
fail() { echo "$*" >&2; exit 1; }
quietly() { "$@" > "$folder/step.log" 2>&1 || { cat "$folder/step.log" >&2; fail "failed: $*"; }; }
# Builds image $1 with the Dockerfile on stdin and the files of folder $2.
base() { quietly docker build -q --network host -t "$1" -f - "$2"; }

say "bases from Debian's packages"
[ -f "$folder/debian.tar" ] || {
    mmdebstrap --quiet --variant=minbase --include=ca-certificates $suite "$folder/new.tar" "$(mirror)"
    mv "$folder/new.tar" "$folder/debian.tar"
}
quietly docker import "$folder/debian.tar" debian:$suite-slim
# Certificate authorities of this machine: crates.io may be reached through a proxy.
cp /etc/ssl/certs/ca-certificates.crt packaging/docker/debian/docker-entrypoint.sh \
    -t "$rust"
cp -r packaging/docker/debian/docker-entrypoint.d "$rust/"
base debian:$suite-slim "$rust" << 'DOCKERFILE'
FROM debian:bookworm-slim
COPY ca-certificates.crt /etc/ssl/certs/
# A module that is built in a stage is not measured: it need not be optimised.
ENV CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
DOCKERFILE
# The layout of the official image: its nginx.conf, its user 101, and its entrypoint.
cat > "$rust/nginx.conf" << 'CONF'
user  nginx;
worker_processes  auto;
error_log  /var/log/nginx/error.log notice;
pid        /run/nginx.pid;
events {
    worker_connections  1024;
}
http {
    include       /etc/nginx/mime.types;
    default_type  application/octet-stream;
    access_log  /var/log/nginx/access.log;
    include /etc/nginx/conf.d/*.conf;
}
CONF
echo 'server { listen       80; location / { root /usr/share/nginx/html; } }' > "$rust/default.conf"
base $nginx "$rust" << 'DOCKERFILE'
FROM debian:bookworm-slim
RUN groupadd --system --gid 101 nginx \
    && useradd --system --gid nginx --no-create-home --home /nonexistent --uid 101 nginx \
    && apt-get update && apt-get install -y --no-install-recommends nginx curl gettext-base \
    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-* /etc/nginx/modules-* \
    && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log
COPY nginx.conf /etc/nginx/
COPY default.conf /etc/nginx/conf.d/
COPY docker-entrypoint.sh /
COPY docker-entrypoint.d /docker-entrypoint.d
ENTRYPOINT ["/docker-entrypoint.sh"]
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
DOCKERFILE
rm -rf "${rust:?}"/*
mkdir -p "$rust/rustup" "$rust/cargo/bin"
if [ "$full" = full ]; then
    cp -a "$(rustc --print sysroot)"/{bin,lib} "$rust/rustup/"
    for program in cargo rustc; do ln -s "/usr/local/rustup/bin/$program" "$rust/cargo/bin/"; done
fi
base rust:1-slim-$suite "$rust" << 'DOCKERFILE'
FROM debian:bookworm-slim
COPY rustup /usr/local/rustup
COPY cargo /usr/local/cargo
ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DOCKERFILE

# Builds image $1 on base $2 as variant $3, with module or package $4 if that is not empty.
image() {
    say "image $1 on $2 ${3:+($3)} ${4:+with a module that is built already}"
    quietly make --no-print-directory image BASE="$2" IMAGE="$1" VARIANT="$3" PREBUILT="$4" \
        BUILD_OPTIONS="--network host" NGINX_SOURCE_DIR="${5:-}"
}

try() { say "run $*"; packaging/try-image.sh "$@"; }

if [ "$full" = full ]; then
    image authgear-nginx-full $nginx "" "" /usr/share/nginx/src
    try authgear-nginx-full
    image authgear-debian-full debian:$suite "" ""
    try authgear-debian-full
    say "the images were built from the sources and run"
    exit 0
fi

image authgear-nginx $nginx "" "$module"
try authgear-nginx
image authgear-nginx-user $nginx unprivileged "$module"
try authgear-nginx-user -e AUTHGEAR_STATUS_LISTEN=0.0.0.0:9200
# As packaging/kubernetes/ runs it: no capability, and folders in memory are all that it can write.
try authgear-nginx-user -e AUTHGEAR_STATUS_LISTEN=0.0.0.0:9145 --cap-drop ALL --security-opt no-new-privileges \
    --read-only --tmpfs /tmp:uid=101 --tmpfs /etc/nginx/conf.d:uid=101 \
    --tmpfs /etc/nginx/authgear:uid=101
image authgear-module $nginx module "$module"
quietly docker run --rm --network none authgear-module nginx -t -g 'load_module modules/ngx_http_authgear_module.so;'
# The instructions of the Dockerfile for Alpine, on Debian: there is no Alpine here.
docker tag $nginx $nginx-alpine
docker tag rust:1-slim-$suite rust:1-alpine
image authgear-alpine $nginx-alpine unprivileged "$module"

say "a package of the module that is built already"
package=$folder/package name=libnginx-mod-http-authgear
rm -rf "$package"
install -D -m 644 "$module" "$package/usr/lib/nginx/modules/ngx_http_authgear_module.so"
install -D -m 644 packaging/debian/mod-http-authgear.conf -t "$package/usr/share/nginx/modules-available"
mkdir -p "$package/etc/nginx/modules-enabled" "$package/DEBIAN"
ln -s /usr/share/nginx/modules-available/mod-http-authgear.conf \
    "$package/etc/nginx/modules-enabled/50-mod-http-authgear.conf"
printf 'Package: %s\nVersion: 0\nArchitecture: amd64\nMaintainer: test\nDescription: test\n' $name \
    > "$package/DEBIAN/control"
quietly dpkg-deb -Zgzip -z1 --build "$package" "$folder/${name}_0_amd64.deb"
image authgear-debian debian:$suite "" "$folder/${name}_0_amd64.deb"
try authgear-debian
# The rights of the drop-in for systemd: its capabilities, its system calls, and what it may write to.
setting() { sed -n "s/^$1=//p" packaging/systemd/hardening.conf; }
packaging/seccomp.py "$(setting SystemCallFilter)" > "$folder/seccomp.json"
rights=(--read-only --tmpfs /tmp --tmpfs /etc/nginx/conf.d --cap-drop ALL
    --security-opt no-new-privileges --security-opt "seccomp=$folder/seccomp.json")
for capability in $(setting CapabilityBoundingSet); do rights+=(--cap-add "${capability#CAP_}"); done
# The logs of the image are links to its output.
for path in $(setting ReadWritePaths); do
    [ "$path" = /var/log/nginx ] || rights+=(--tmpfs "$path")
done
try authgear-debian "${rights[@]}"
image authgear-debian-user debian:$suite unprivileged "$folder/${name}_0_amd64.deb"
try authgear-debian-user

say "what a release does with an image"
rm -rf "$folder/dist"
packaging/dist.sh module "$folder/dist" authgear-nginx $nginx
packaging/dist.sh checksums "$folder/dist" > /dev/null
cmp "$module" "$folder/dist/"*-nginx-1.22.1-glibc-*.so
(cd "$folder/dist" && quietly sha256sum --check SHA256SUMS)
free_port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port)
printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s } }\nhttp: { addr: 127.0.0.1:%s }\n' \
    "$folder/data/registry" "$port" > "$folder/registry.yml"
docker-registry serve "$folder/registry.yml" > "$folder/registry.log" 2>&1 &
registry=$!
docker tag authgear-nginx "127.0.0.1:$port/authgear-nginx:1.0"
curl -sS --retry 20 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$port/v2/" > /dev/null
digest=$(packaging/push-image.sh "127.0.0.1:$port/authgear-nginx:1.0" | grep '^digest=sha256:') \
    || fail "no digest of a pushed image"
digest=${digest#digest=}
curl -sSf -o /dev/null -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' \
    "http://127.0.0.1:$port/v2/authgear-nginx/manifests/$digest" || fail "not in the registry: $digest"
kill "$registry"

say "packaging/compose/demo.yaml"
mkdir -p "$folder/demo/prebuilt"
strip -o "$folder/demo/prebuilt/demo" "$demo"
quietly docker build -t authgear-demo -f packaging/compose/demo.Dockerfile "$folder/demo"
docker tag authgear-nginx nginx-authgear
PORT=$(free_port) AUTHGEAR_PORT=$(free_port)
export PORT AUTHGEAR_PORT NGINX_VERSION=${nginx#nginx:}
compose() { docker-compose --project-name try -f "packaging/compose/$1.yaml" "${@:2}"; }
quietly compose demo up -d --no-build
get() { curl -sS --retry 20 --retry-all-errors --retry-delay 1 "$@" "http://localhost:$PORT/"; }
page=$(get -f -b session=alice -H 'X-Authgear-User-Id: mallory')
[[ $page == *'user <b>alice</b>'* ]] || { compose demo logs; fail "the application received: $page"; }
[ "$(get -o /dev/null -w '%{http_code}')" = 401 ] || fail "not 401"
login=$(get -o /dev/null -w '%{redirect_url}' -H 'Accept: text/html' -H 'Sec-Fetch-Mode: navigate')
[[ $login == "http://localhost:$AUTHGEAR_PORT/oauth2/authorize?"*"client_id=demo"* ]] \
    || fail "no login, but: $login"
# The button of the login page, and the way back to the site.
browse() { get -L -c "$folder/cookies" -b "$folder/cookies" -H 'Accept: text/html' "$@"; }
form=$(browse -H 'Sec-Fetch-Mode: navigate' | sed -n 's/&amp;/\&/g; s/.* action="\([^"]*\)".*/\1/p')
answer=$(curl -sS -c "$folder/cookies" -b "$folder/cookies" -H 'X-Authgear-XHR: true' -d user=bob \
    "http://localhost:$AUTHGEAR_PORT$form")
back=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["redirect_uri"])' <<< "$answer")
page=$(curl -sS -L -c "$folder/cookies" -b "$folder/cookies" -H 'Accept: text/html' \
    "http://localhost:$AUTHGEAR_PORT$back")
[[ $page == *'user <b>bob</b>'* ]] || fail "not logged in: $page"
quietly compose demo down

say "packaging/compose/fleet.yaml"
# As the official image does, it lets everybody in.
base redis:7 "$rust" << 'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/*
USER redis
EXPOSE 6379
ENTRYPOINT ["/bin/sh", "-c", "exec \"$@\" --protected-mode no", "redis"]
CMD ["redis-server"]
DOCKERFILE
PORT_B=$(free_port) packaging/try-fleet.sh

# What it pulls is not here.
compose authgear config --quiet

say "the images were built and run"
docker image ls --format '{{.Repository}} {{.Size}}' | grep '^authgear'
