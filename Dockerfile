# The image: one static program, and nothing else. For another architecture:
#
#     docker buildx build --platform linux/amd64,linux/arm64 --tag sidestream:0.1.0 .
#
# Base images can be named by build arguments, for registries of your own.
ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The same steps as without an image: see the script.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target,id=target-${TARGETARCH} \
    CARGO_TARGET_DIR=/target scripts/image-root /root-of-image

FROM scratch
COPY --from=build /root-of-image /
USER 65532:65532
ENTRYPOINT ["/sidestream"]
CMD ["run"]
