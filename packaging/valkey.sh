#!/usr/bin/env bash
# Unpacks Valkey into a folder: FOLDER/valkey-server runs here. Installs nothing.
#
#   packaging/valkey.sh FOLDER VERSION
#
# VERSION is 8.1, that of Debian 13, or 8.0, that of the backports for Debian 12. The latter needs the
# libraries of Debian 12 that redis-tools needs too.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

begin_folder "$1"
case $2 in
    8.1) unpack trixie valkey-tools ;;
    8.0) unpack bookworm-backports "" valkey-tools ;;
    *) echo "no Valkey $2: name 8.1 or 8.0" >&2; exit 1 ;;
esac
# One program with several names.
cp "$root/usr/bin/valkey-check-rdb" "$folder/valkey-server"
[ "$2" = 8.0 ] || use_own_libraries "$folder/valkey-server"
"$folder/valkey-server" --version
end_folder
