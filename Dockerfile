# syntax=docker/dockerfile:1
# The image: one static program and nothing else. For this machine's architecture, or for both:
#
#     docker buildx build --tag sidestream:0.1.0 .
#     docker buildx build --platform linux/amd64,linux/arm64 --tag sidestream:0.1.0 .
#
# The base image is a build argument, for registries of your own.
ARG RUST_IMAGE=rust:1.95-bookworm

# The compiler runs on the builder's own architecture and cross-compiles: under emulation, linking
# alone takes an hour.
FROM --platform=${BUILDPLATFORM} ${RUST_IMAGE} AS build
# The architecture of the image, which BuildKit sets. A default here would win over that.
ARG TARGETARCH
RUN set -eu; \
    tools="cmake python3 ca-certificates"; \
    case "${TARGETARCH}" in \
        "$(dpkg --print-architecture)") ;; \
        amd64) tools="$tools gcc-x86-64-linux-gnu g++-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
        arm64) tools="$tools gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
        *) echo "no image for the architecture '${TARGETARCH}': use amd64 or arm64" >&2; exit 1 ;; \
    esac; \
    apt-get update; \
    apt-get install --yes --no-install-recommends $tools; \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The same steps as without a container engine: see the script.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target,id=sidestream-${TARGETARCH} \
    CARGO_TARGET_DIR=/target IMAGE_ARCH=${TARGETARCH} scripts/image-root /root-of-image

FROM scratch
COPY --from=build /root-of-image /
USER 65532:65532
ENTRYPOINT ["/sidestream"]
CMD ["run"]
