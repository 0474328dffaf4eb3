# The edge client alone: no torch, no server. From the repository's root, for both architectures:
#   docker buildx build -f deploy/edge.Dockerfile --platform linux/amd64,linux/arm64 -t featherwire-edge .
# With --target camera it has footage to stream (docker-compose.yml's demonstration).
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/featherwire \
    && /opt/featherwire/bin/pip install --no-cache-dir \
        -c constraints-edge.txt '.[edge,stream,mqtt,webhook]'

# The same frames on every machine: they are made on the one that builds.
FROM --platform=$BUILDPLATFORM python:${PYTHON}-slim-bookworm AS footage
WORKDIR /src
COPY constraints.txt deploy/footage.py ./
RUN pip install --no-cache-dir -c constraints.txt av scikit-image scikit-learn \
    && python footage.py /footage.mp4

FROM python:${PYTHON}-slim-bookworm AS runtime
COPY --from=build /opt/featherwire /opt/featherwire
COPY deploy/edge_health.py /usr/local/lib/featherwire/edge_health.py
RUN useradd --create-home --uid 10001 featherwire \
    && install -d -o featherwire /var/lib/featherwire
ENV PATH=/opt/featherwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/var/lib/featherwire/cache
USER 10001
WORKDIR /home/featherwire
# The spool of frames that no server took yet, bundles that servers sent, and what was measured of
# the machine.
VOLUME ["/var/lib/featherwire"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "/usr/local/lib/featherwire/edge_health.py", "7570"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["featherwire-edge"]
CMD ["--help"]

FROM runtime AS camera
COPY --from=footage /footage.mp4 /usr/share/featherwire/footage.mp4

FROM runtime AS edge
