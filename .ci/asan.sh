#!/usr/bin/env bash
# Runs the integration tests with AddressSanitizer and LeakSanitizer in nginx and in the module.
#
#   .ci/asan.sh FOLDER [FILTER...]
#   SOAK=SECONDS .ci/asan.sh FOLDER    runs the soak instead
#
# FOLDER keeps the nginx and the module between runs. FILTERs select tests by parts of their names.
#
# Fails on a report of AddressSanitizer, a leak below a worker's cycle, and a leak that the module
# allocated itself. Leaks of nginx are left: its master's first cycle, the configuration that
# `nginx -t` reads, and the arrays of the event loop.
#
# Skipped are tests that compare sizes of processes (reloads, abandoned look-ups), since
# AddressSanitizer keeps freed memory, or times (the cost of bytes, overload, wake-ups), since it
# slows the module, those of failing allocations, which replace malloc() as AddressSanitizer does,
# and those that preload a clock into nginx, before the library of AddressSanitizer. Those with a
# browser are skipped too: they take long, and walk paths that others walk.
set -euo pipefail

cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
target=x86_64-unknown-linux-gnu
reports=$folder/reports

packaging/crate-nginx.sh 1.28 "$folder" asan
RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    NGINX_SOURCE_DIR=$folder/src NGINX_BUILD_DIR=$folder/objs \
    "$cargo" build --release --locked --target $target --target-dir "$folder/target"

rm -rf "$reports"
mkdir "$reports"
echo leak:ngx_event_process_init > "$folder/suppressions"
export AUTHGEAR_NGINX=$folder/nginx
export AUTHGEAR_MODULE=$folder/target/$target/release/libngx_http_authgear_module.so
export ASAN_OPTIONS=log_path=$reports/report:exitcode=0:detect_odr_violation=0
export LSAN_OPTIONS=suppressions=$folder/suppressions:print_suppressions=0:exitcode=0
if [ -n "${SOAK:-}" ]; then
    "$cargo" run --quiet --locked -p authgear-tests --bin soak -- --any-memory --seconds "$SOAK"
else
    "$cargo" test --locked -p authgear-tests --test integration -- \
        --skip reload_after_reload_leaves_nothing_behind --skip allocations:: --skip hostile::row01 --skip hostile::row02 \
        --skip hostile::row03 --skip wakes_only_the_requests --skip login_browser:: \
        --skip fleet_clocks::a_host_whose_clock --skip fleet_clocks::a_verdict_counts \
        --skip self_hosted::a_browser --skip self_hosted::nobody --skip status_page:: "$@"
fi

ours='ERROR: AddressSanitizer|ngx_(worker|single)_process_cycle|panicked'
found=$(shopt -s nullglob
    for report in "$reports"/*; do
        if grep -qE "$ours" "$report" || awk '
            /Direct leak/ { direct = 1 } /^$/ { direct = 0 }
            direct && /libngx_http_authgear/ { found = 1 } END { exit !found }' "$report"
        then
            echo "$report"
        fi
    done)
if [ -n "$found" ]; then
    cat $found
    exit 1
fi
echo "no report of AddressSanitizer"
