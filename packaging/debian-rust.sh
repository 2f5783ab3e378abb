#!/usr/bin/env bash
# Unpacks the Rust of another Debian suite into a folder, and installs nothing.
#
#   packaging/debian-rust.sh SUITE FOLDER
#
# FOLDER/bin is then for PATH: its cargo and rustc run here, by the libraries of their own suite.
# What rustc links is linked by this machine's compiler.
set -euo pipefail

suite=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
[ ! -e "$folder/complete" ] || exit 0
rm -rf "$folder"/*

root=$folder/root
"$(dirname "$0")/debian-unpack.sh" "$suite" "$root" 'cargo rustc'

libraries=$root/usr/lib/x86_64-linux-gnu
mkdir "$folder/bin"
for program in cargo rustc; do
    ln -s "$root/usr/bin/$program" "$folder/bin/"
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath \
        --set-rpath "$libraries" "$(readlink -f "$root/usr/bin/$program")"
done
"$folder/bin/rustc" --version
touch "$folder/complete"
