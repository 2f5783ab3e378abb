#!/bin/sh
# Configures nginx from the environment, as the official images do, and runs the command: runs
# /docker-entrypoint.d/*.sh, and reads *.envsh into the environment, in the order of their names.
set -eu

if [ "${1:-}" = nginx ]; then
    for file in /docker-entrypoint.d/*; do
        [ -x "$file" ] || continue
        case $file in
            *.envsh) . "$file" ;;
            *.sh) "$file" ;;
        esac
    done
fi
exec "$@"
