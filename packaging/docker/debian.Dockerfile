# Debian's nginx with Debian's package of the module.
#
#   make image                                       nginx 1.22 of Debian 12
#   make image BASE=debian:trixie                    nginx 1.26 of Debian 13
#   make image BASE=debian:bookworm VARIANT=unprivileged
#
# docs/images.md says how to configure it. It is configured as the official images of nginx are.

ARG DEBIAN=bookworm

FROM rust:1-slim-${DEBIAN} AS build
WORKDIR /build/source
COPY . .
RUN packaging/docker/build-package.sh /build/package

FROM debian:${DEBIAN}-slim AS complete
COPY --from=build /build/package/ /tmp/package/
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates curl gettext-base nginx /tmp/package/*.deb \
    && rm -rf /var/lib/apt/lists/* /tmp/package /etc/nginx/sites-enabled/default \
    && ln -sf /dev/stdout /var/log/nginx/access.log \
    && ln -sf /dev/stderr /var/log/nginx/error.log
COPY packaging/docker/debian/ /
COPY packaging/docker/rootfs/ /
RUN sed -i 's|^\([ \t]*\)include /etc/nginx/conf.d/\*.conf;|\1include /etc/nginx/authgear/*.conf;\n&|' \
        /etc/nginx/nginx.conf \
    && nginx -t
ENV AUTHGEAR_STATUS_LISTEN=127.0.0.1:9145
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD curl -fsS -o /dev/null "http://$AUTHGEAR_STATUS_LISTEN/authgear/status" || exit 1
EXPOSE 80
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/docker-entrypoint.sh"]
CMD ["nginx", "-g", "daemon off;"]

FROM complete AS unprivileged
# www-data
RUN /usr/share/authgear/unprivileged.sh 33
USER 33
EXPOSE 8080

# The last stage is the default.
FROM complete
