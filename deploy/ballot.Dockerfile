# The image of the voting system: one static-enough binary on a small base.
#   cargo build --release --package ballot && docker build -f deploy/ballot.Dockerfile -t ballot .
FROM debian:12-slim
COPY target/release/ballot /usr/local/bin/ballot
RUN mkdir -p /var/lib/ballot && chown 65534:65534 /var/lib/ballot
USER 65534:65534
ENV BALLOT_DATA_DIR=/var/lib/ballot BALLOT_LISTEN=0.0.0.0:8090
EXPOSE 8090
# A front drains when asked to end: the platform must give it the time (stop_grace_period).
ENTRYPOINT ["ballot"]
CMD ["all"]
