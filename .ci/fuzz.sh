#!/usr/bin/env bash
# Runs each fuzz target for some seconds, from the seeds and from the inputs that earlier runs found.
#
#   .ci/fuzz.sh SECONDS
set -euo pipefail

cargo=${CARGO:-cargo}
command -v cargo-fuzz >/dev/null || {
    echo "installing cargo-fuzz (cargo)"
    "$cargo" install --quiet --locked cargo-fuzz
}
cd "$(dirname "$0")/../fuzz"
export RUSTC_BOOTSTRAP=1
"$cargo" fuzz build -O
for target in $("$cargo" fuzz list); do
    mkdir -p "corpus/$target"
    "$cargo" fuzz run -O "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$1" -timeout=5 -verbosity=0
done
