# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin mlflow-auth-proxy

FROM debian:bookworm-slim
# The system's trust roots, for an upstream behind TLS.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 authproxy \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin authproxy \
    && install --directory --owner=authproxy --group=authproxy --mode=0700 /data
COPY --from=build /source/target/release/mlflow-auth-proxy /usr/local/bin/mlflow-auth-proxy

USER 10001
WORKDIR /data
VOLUME /data
# Beyond loopback it starts only with TLS, or with MLFLOW_AUTH_PROXY_SERVER__ALLOW_PLAIN_HTTP=true.
ENV MLFLOW_AUTH_PROXY_SERVER__LISTEN=0.0.0.0:8080 \
    MLFLOW_AUTH_PROXY_STORE__URL=sqlite:///data/store.db
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["mlflow-auth-proxy", "health"]
ENTRYPOINT ["mlflow-auth-proxy"]
CMD ["serve"]
