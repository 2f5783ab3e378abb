#!/bin/sh
# Makes the nginx of this image run as user UID, which can write to no folder but those of nginx.
#
#   /usr/share/authgear/unprivileged.sh UID
#
# Servers of the image listen on 8080. The group 0 may write too: platforms such as OpenShift choose
# the user, and keep that group.
set -eu

uid=$1
sed -i -e '/^user /d' -e 's|^pid .*|pid /tmp/nginx.pid;|' \
    -e 's|^http {|http {\n    client_body_temp_path /tmp/client_temp;\n    proxy_temp_path /tmp/proxy_temp;\n    fastcgi_temp_path /tmp/fastcgi_temp;\n    uwsgi_temp_path /tmp/uwsgi_temp;\n    scgi_temp_path /tmp/scgi_temp;|' \
    /etc/nginx/nginx.conf
default=/etc/nginx/conf.d/default.conf
[ ! -f $default ] || sed -i -e 's|listen  *80;|listen 8080;|' -e 's|listen  *\[::\]:80;|listen [::]:8080;|' $default
chown -R "$uid:0" /etc/nginx
chmod -R g+w /etc/nginx
