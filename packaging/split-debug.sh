#!/bin/sh
# Moves the debug information of a library to a file beside it, where debuggers find it.
#
#   packaging/split-debug.sh FILE.so
#
# FILE.so is stripped, and FILE.so.debug has what was removed. The build of Cargo stays as it is.
set -eu
case $1 in */*) cd "$(dirname "$1")" ;; esac
file=$(basename "$1")
objcopy --only-keep-debug --compress-debug-sections "$file" "$file.debug"
chmod 644 "$file.debug"
strip --strip-unneeded --remove-section=.comment -o "$file.stripped" "$file"
objcopy --add-gnu-debuglink="$file.debug" "$file.stripped"
# A new file, not a changed one: an nginx may have the old one in memory, and Cargo a second name.
mv "$file.stripped" "$file"
