#!/bin/sh
# Writes /etc/nginx/conf.d/NAME from /etc/nginx/templates/NAME.template, with the variables of the
# environment in it. nginx's own variables stay, unless the environment has one of their name.
set -eu

from=${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}
suffix=${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}
to=${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}
[ -d "$from" ] || exit 0

known=$(awk -v filter="${NGINX_ENVSUBST_FILTER:-}" \
    'BEGIN { for (name in ENVIRON) if (name ~ filter) printf "${%s} ", name }' < /dev/null)
find "$from" -follow -type f -name "*$suffix" | while read -r template; do
    name=${template#"$from"/}
    file=$to/${name%"$suffix"}
    mkdir -p "$(dirname "$file")"
    envsubst "$known" < "$template" > "$file"
done
