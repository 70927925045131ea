# docs/docker.md describes the image. Base images are pinned by tag; a build argument can pin one by digest, such as
#   --build-arg RUNTIME_IMAGE=debian:bookworm-slim@sha256:...
# Nothing here needs BuildKit: the classic builder and buildah build it as well.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /source
# The dependencies, in a layer that changes with Cargo.lock only. What is compiled of the package itself is removed: Cargo compares
# times of files, and those of the real sources are older.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin mlflow-auth-proxy \
    && cargo clean --release --locked --package mlflow-auth-proxy
COPY . .
RUN cargo build --release --locked --bin mlflow-auth-proxy

FROM ${RUNTIME_IMAGE}
# The system's trust roots, for MLflow, identity providers and databases behind TLS.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache \
    && groupadd --gid 10001 authproxy \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin authproxy \
    && install --directory --owner=authproxy --group=authproxy --mode=0700 /data
COPY --from=build /source/LICENSE /usr/share/doc/mlflow-auth-proxy/LICENSE
COPY --from=build /source/target/release/mlflow-auth-proxy /usr/local/bin/mlflow-auth-proxy

USER 10001:10001
WORKDIR /data
# The only folder that is written to: the root file system can be read-only.
VOLUME /data
# Beyond loopback it starts only with TLS, or with MLFLOW_AUTH_PROXY_SERVER__ALLOW_PLAIN_HTTP=true.
ENV MLFLOW_AUTH_PROXY_SERVER__LISTEN=0.0.0.0:8080 \
    MLFLOW_AUTH_PROXY_STORE__URL=sqlite:///data/store.db
EXPOSE 8080
STOPSIGNAL SIGTERM
# --timeout is longer than the command's own, so that its message is recorded.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["mlflow-auth-proxy", "health"]
ENTRYPOINT ["mlflow-auth-proxy"]
CMD ["serve"]

ARG VERSION=0.0.0-dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="mlflow-auth-proxy" \
      org.opencontainers.image.description="An authenticating reverse proxy for an unmodified MLflow server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
