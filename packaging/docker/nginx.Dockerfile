# An official nginx image of Debian's userland, with the module.
#
#   make image BASE=nginx:1.30.0
#   make image BASE=nginx:1.30.0 VARIANT=unprivileged
#
# docs/images.md says how to configure it.

ARG BASE=nginx:1.30.0
ARG RUST=rust:1-slim-bookworm

FROM ${RUST} AS rust

# The module is built by the userland that runs it: its libc and its libssl.
FROM ${BASE} AS build
USER root
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
WORKDIR /build
COPY . .
# Checks the sources of nginx, if they are fetched.
ARG NGINX_SHA256
# 1: the module has the list of its dependencies in it, for `cargo audit bin`.
ARG AUDITABLE
RUN packaging/docker/build-module.sh /ngx_http_authgear_module.so

# For images that write nginx.conf themselves, such as those of ingress controllers.
FROM ${BASE} AS module
COPY --from=build /ngx_http_authgear_module.so /usr/lib/nginx/modules/

FROM module AS complete
COPY packaging/docker/rootfs/ /
RUN sed -i -e '1i load_module /usr/lib/nginx/modules/ngx_http_authgear_module.so;\n' \
        -e 's|^\( *\)include /etc/nginx/conf.d/\*.conf;|\1include /etc/nginx/authgear/*.conf;\n&|' \
        /etc/nginx/nginx.conf \
    && nginx -t
ENV AUTHGEAR_STATUS_LISTEN=127.0.0.1:9145
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD curl -fsS -o /dev/null "http://$AUTHGEAR_STATUS_LISTEN/authgear/status" || exit 1
STOPSIGNAL SIGQUIT

FROM complete AS unprivileged
RUN /usr/share/authgear/unprivileged.sh 101
USER 101
EXPOSE 8080

# The last stage is the default.
FROM complete
