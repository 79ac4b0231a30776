# The gateway in a container. FUSE mounts need --device /dev/fuse --cap-add SYS_ADMIN.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates fuse3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/tidegate /usr/local/bin/tidegate
COPY shares /var/lib/tidegate/shares
WORKDIR /var/lib/tidegate
VOLUME /var/lib/tidegate
EXPOSE 9000 9080
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidegate"]
CMD ["serve"]
