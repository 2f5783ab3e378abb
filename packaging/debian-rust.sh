#!/usr/bin/env bash
# Unpacks the Rust of another Debian suite into a folder. Installs nothing.
#
#   packaging/debian-rust.sh SUITE FOLDER
#
# FOLDER/bin is for PATH: its cargo and rustc run here, with the libraries of their own suite. This
# machine's compiler links.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

begin_folder "$2"
unpack "$1" 'cargo rustc'
mkdir "$folder/bin"
for program in cargo rustc; do
    ln -s "$root/usr/bin/$program" "$folder/bin/"
    use_own_libraries "$(readlink -f "$root/usr/bin/$program")"
done
"$folder/bin/rustc" --version
end_folder
