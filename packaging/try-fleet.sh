#!/usr/bin/env bash
# Runs packaging/compose/fleet.yaml with the images that are there, and takes it down.
#
#   packaging/try-fleet.sh
#
# In the environment: PORT and PORT_B of the hosts, AUTHGEAR_PORT, NGINX_VERSION of the application.
set -euo pipefail

cd "$(dirname "$0")/.."
: "${PORT:=8080}" "${PORT_B:=8081}" "${AUTHGEAR_PORT:=3000}"
export PORT PORT_B AUTHGEAR_PORT
compose() { docker-compose --project-name try-fleet -f packaging/compose/fleet.yaml "$@"; }
log=$(mktemp)
end() {
    local status=$?
    compose down --volumes > /dev/null 2>&1 || true
    rm -f "$log"
    exit "$status"
}
trap end EXIT
fail() { echo "fleet.yaml: $*" >&2; compose logs --no-color --tail 40 >&2; exit 1; }
compose up -d --no-build > "$log" 2>&1 || { cat "$log" >&2; fail "it does not start"; }

# Asks the host at port $1 for path $2, with options of curl.
ask() { curl -sS --retry 20 --retry-all-errors --retry-delay 1 "${@:3}" "http://localhost:$1$2"; }
status() { ask "$1" / -o /dev/null -w '%{http_code}' "${@:2}"; }
# Says where the verdict on the session of `user` is from.
user=alice
cache() { ask "$1" / -o /dev/null -w '%header{x-cache-status}' -b session=$user; }
poll() { for _ in $(seq 100); do ! "$@" || return 0; sleep 0.1; done; return 1; }

# The host is in sync, and each of its workers can share: two connections are for events.
ready() {
    ask "$1" /authgear/status -f | python3 -c '
import json, sys
report = json.load(sys.stdin)
fleet = report["fleet"]
workers = report["workers"]
sys.exit(not (fleet and fleet["in_sync"] and fleet["connections"]["opened"] >= workers + 2))'
}
for port in "$PORT" "$PORT_B"; do
    poll ready "$port" || fail "not in sync: $(ask "$port" /authgear/status)"
done

# On a busy machine Redis may not answer within its timeout: the other host asks then.
shared() {
    for user in alice bob carol; do
        [ "$(cache "$PORT")" = MISS ] || fail "the first host did not ask"
        [ "$(cache "$PORT_B")" != SHARED ] || return 0
    done
    return 1
}
shared || fail "no verdict is shared: $(ask "$PORT_B" /authgear/status)"

forged=(-H 'X-Authgear-Session-Valid: true' -H 'X-Authgear-User-Id: mallory'
    -H 'X-Authgear-User-Roles: admin' -H 'x_authgear_user_id: mallory')
for port in "$PORT" "$PORT_B"; do
    [ "$(cache "$port")" = HIT ] || fail "a verdict is not kept"
    page=$(ask "$port" / -b session=alice "${forged[@]}")
    [[ $page == *'user <b>alice</b>, roles: '* && $page != *mallory* && $page != *admin* ]] \
        || fail "the application received: $page"
    [ "$(status "$port" "${forged[@]}")" = 401 ] || fail "not 401"
    form=$(ask "$port" / -L -H 'Accept: text/html' -H 'Sec-Fetch-Mode: navigate')
    [[ $form == *' action="'* ]] || fail "no login, but: $form"
done

purged=$(ask "$PORT" /authgear/purge -o /dev/null -w '%{http_code}' -X POST -b session=$user)
[ "$purged" = 204 ] || fail "the answer to a purge is $purged"
asks_anew() { [ "$(cache "$PORT_B")" = MISS ]; }
poll asks_anew || fail "a purge at one host is not known at the other"
echo "the fleet runs"
