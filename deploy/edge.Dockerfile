# The edge client alone: no torch, no server. From the repository's root:
#   docker build -f deploy/edge.Dockerfile -t featherwire-edge .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/featherwire \
    && /opt/featherwire/bin/pip install --no-cache-dir -c constraints-edge.txt '.[edge]'

FROM python:${PYTHON}-slim
COPY --from=build /opt/featherwire /opt/featherwire
RUN useradd --create-home --uid 10001 featherwire
ENV PATH=/opt/featherwire/bin:$PATH PYTHONUNBUFFERED=1
USER featherwire
WORKDIR /home/featherwire
ENTRYPOINT ["featherwire-edge"]
CMD ["--help"]
