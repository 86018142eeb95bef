# Three images from one build: the node's one binary, the NATS server that go.mod names, and Kannel from
# Debian's packages. Each ends as user 65532 and is told everything by its command: see docker-compose.yml.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ENV CGO_ENABLED=0
RUN go build -trimpath -ldflags "-s -w" -o /out/bluejay ./cmd/bluejay && \
    go build -trimpath -ldflags "-s -w" -o /out/nats-server github.com/nats-io/nats-server/v2
# Folders that volumes are mounted at: a new volume takes over their owner.
RUN install -d -m 0700 /dirs/empty /dirs/node /dirs/node/keys /dirs/node/keys/broker /dirs/node/keys/registrar \
    /dirs/node/keys/worker /dirs/node/keys/operator /dirs/node/keys/nats /dirs/node/keys/kannel && \
    install -d -m 0755 /dirs/node/nats-accounts /dirs/public

# bluejay: broker, registrar, worker and the operator's commands. No shell, no package manager.
FROM scratch AS bluejay
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/bluejay /usr/local/bin/bluejay
COPY --from=build --chown=65532:65532 /dirs/node /node
COPY --from=build --chown=65532:65532 /dirs/empty /run/keys
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/bluejay"]

# nats: the server of go.mod; bluejay is in it for its health check.
FROM scratch AS nats
COPY --from=build /out/nats-server /usr/local/bin/nats-server
COPY --from=build /out/bluejay /usr/local/bin/bluejay
COPY --from=build --chown=65532:65532 /dirs/empty /run/keys
COPY --from=build --chown=65532:65532 /dirs/empty /data
COPY --from=build --chown=65532:65532 /dirs/public /etc/nats
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nats-server"]

# kannel: bearerbox, smsbox and fakesmsc; which one runs is the command's choice.
FROM debian:bookworm-slim AS kannel
RUN apt-get update && \
    apt-get install -y --no-install-recommends kannel kannel-extras && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bluejay /usr/local/bin/bluejay
COPY --from=build --chown=65532:65532 /dirs/empty /run/keys
USER 65532:65532
