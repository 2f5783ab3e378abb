# The demo Authgear of demo.yaml: for a try-out without an account, not for users.

FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN if [ -f prebuilt/demo ]; then cp prebuilt/demo /authgear-demo; else \
        cargo build --locked -p authgear-tests --bin demo && cp target/debug/demo /authgear-demo; fi

FROM debian:bookworm-slim
COPY --from=build /authgear-demo /usr/local/bin/
USER 65534
EXPOSE 3000
ENTRYPOINT ["authgear-demo"]
