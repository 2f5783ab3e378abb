#!/usr/bin/env bash
# Unpacks Valkey of Debian 13 into a folder: FOLDER/valkey-server runs here. Installs nothing.
#
#   packaging/valkey.sh FOLDER
set -euo pipefail
source "$(dirname "$0")/debian.sh"

begin_folder "$1"
unpack trixie valkey-tools
# One program with several names.
cp "$root/usr/bin/valkey-check-rdb" "$folder/valkey-server"
use_own_libraries "$folder/valkey-server"
"$folder/valkey-server" --version
end_folder
