#!/usr/bin/env bash
# Runs an image with Docker: templates, the module, the health check, its user, and its end.
#
#   packaging/try-image.sh IMAGE [OPTION...]
#
# OPTIONs are those of `docker run`. The container has no network but its loopback.
set -euo pipefail

image=$1
shift
folder=$(mktemp -d)
name=try-$$
end() {
    local status=$?
    docker rm -f "$name" > /dev/null 2>&1 || true
    rm -rf "$folder"
    exit "$status"
}
trap end EXIT
fail() { echo "$image: $*" >&2; docker logs "$name" >&2; exit 1; }
inside() { docker exec "$name" "$@"; }
of_image() { docker inspect -f "{{$1}}" "$image"; }

cat > "$folder/site.conf.template" << 'CONF'
server {
    listen 127.0.0.1:8088;
    authgear ${AUTHGEAR_ENDPOINT};
    location / { authgear_require session; root /usr/share/nginx/html; }
    location = /endpoint { authgear off; return 200 "${AUTHGEAR_ENDPOINT} $uri"; }
}
CONF
chmod -R a+rX "$folder"
docker run -d --name "$name" --network none -e AUTHGEAR_ENDPOINT=https://192.0.2.1 \
    -v "$folder:/etc/nginx/templates:ro" "$@" "$image" > /dev/null
for _ in $(seq 60); do
    health=$(docker inspect -f '{{.State.Health.Status}}' "$name")
    [ "$health" = starting ] || break
    sleep 0.5
done
[ "$health" = healthy ] || fail "the health check says $health"

ask() { inside curl -sS "$@" || fail "no answer: $*"; }
listen=$(inside printenv AUTHGEAR_STATUS_LISTEN)
[[ $(ask -f "http://$listen/authgear/status") == *'"build":{"version":'* ]] || fail "no status"
[ "$(ask http://127.0.0.1:8088/endpoint)" = 'https://192.0.2.1 /endpoint' ] || fail "no template"
[ "$(ask -o /dev/null -w '%{http_code}' http://127.0.0.1:8088/)" = 401 ] || fail "not 401"

# Its user, and the page of the official images, which is at another port for those without rights.
user=$(of_image .Config.User)
[ "$(inside stat -c %u /proc/1)" = "${user:-0}" ] || fail "not user ${user:-0}"
! inside test -f /etc/nginx/conf.d/default.conf \
    || ask -f -o /dev/null "http://127.0.0.1:$([ -n "$user" ] && echo 8080 || echo 80)/"

check=$(of_image 'index .Config.Healthcheck.Test 1')
! docker exec -e AUTHGEAR_STATUS_LISTEN=127.0.0.1:9 "$name" sh -c "$check" 2> /dev/null \
    || fail "the health check is content with a port at which nobody listens"

[ "$(of_image .Config.StopSignal)" = SIGQUIT ] || fail "it does not end gracefully"
docker stop "$name" > /dev/null
[ "$(docker inspect -f '{{.State.ExitCode}}' "$name")" = 0 ] || fail "it ended with an error"
docker logs "$name" > "$folder/log" 2>&1
grep -q '"GET / HTTP/1.1" 401' "$folder/log" || fail "no access log"
echo "$image runs"
