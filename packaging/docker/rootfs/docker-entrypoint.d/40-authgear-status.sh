#!/bin/sh
# Writes the server with the status, which the health check asks, at the address of
# AUTHGEAR_STATUS_LISTEN. Writes nothing if it is there already: the image has that of its default.
set -eu

file=/etc/nginx/authgear/status.conf
content="server {
    listen $AUTHGEAR_STATUS_LISTEN;
    access_log off;
    location = /authgear/status { authgear off; authgear_status; }
    location / { return 404; }
}"
if [ ! -f "$file" ] || [ "$(cat "$file")" != "$content" ]; then
    printf '%s\n' "$content" > "$file"
fi
