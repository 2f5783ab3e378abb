#!/bin/sh
# Checks what a build of the module needs, before a compiler starts. Prints one line for each thing
# that is missing, with what to do.
#
#   packaging/check-sources.sh SOURCE_DIR BUILD_DIR
#
# SOURCE_DIR has the sources of an nginx, configured in BUILD_DIR. An empty one is found by the
# other: BUILD_DIR is then SOURCE_DIR/objs.
set -eu
here=$(dirname "$0")
. "$here/nginx-sources.sh"

case $1 in '' | /*) source=$1 ;; *) source=$PWD/$1 ;; esac
case $2 in '' | /*) objs=$2 ;; *) objs=$PWD/$2 ;; esac
source=${source%/} objs=${objs%/}
[ -n "$source" ] || source=$(dirname "$objs")
[ -n "$objs" ] || objs=$source/objs

check_sources "$source" "$objs"
check_tools "$here/.." || exit 1
signature=$(signature_of_sources "$source" "$objs")
[ -n "$signature" ] || exit 1
