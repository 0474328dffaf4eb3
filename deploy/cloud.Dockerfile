# The cloud server, and its console. From the repository's root, CPU and GPU:
#   docker build -f deploy/cloud.Dockerfile --build-arg TORCH_INDEX=<PyTorch's CPU index> .
#   docker build -f deploy/cloud.Dockerfile --build-arg DEVICE=cuda --build-arg EXTRAS=cloud-gpu .
# For a Ray cluster, servers and nodes alike: EXTRAS=cloud,ray or EXTRAS=cloud-gpu,ray.
# The default index's Linux wheels of torch carry CUDA (gigabytes), which is what a GPU image needs
# and what a CPU image avoids by naming PyTorch's own CPU index. A GPU image runs under the NVIDIA
# container runtime (`docker run --gpus all`).
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=
ARG EXTRAS=cloud
WORKDIR /src
COPY . .
RUN python -m venv /opt/featherwire \
    && /opt/featherwire/bin/pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        ".[${EXTRAS},tasks,postgres,console,telemetry]"

FROM python:${PYTHON}-slim-bookworm
ARG DEVICE=cpu
COPY --from=build /opt/featherwire /opt/featherwire
COPY deploy/cloud.yaml /etc/featherwire/cloud.yaml
COPY deploy/healthcheck.py /usr/local/lib/featherwire/healthcheck.py
# Mount points: a new volume takes its owner from here. The cache of task weights and the log are
# volumes, so that a new image neither fetches nor forgets.
RUN useradd --create-home --uid 10001 featherwire \
    && install -d -o featherwire /home/featherwire/.cache/featherwire /var/lib/featherwire \
        /etc/featherwire/keys /etc/featherwire/ca /etc/featherwire/camera \
        /etc/featherwire/database /etc/featherwire/grafana
ENV PATH=/opt/featherwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FEATHERWIRE_DEVICE=${DEVICE} \
    FEATHERWIRE_DATA=/var/lib/featherwire \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# By number, which Kubernetes can tell from root.
USER 10001
WORKDIR /home/featherwire
VOLUME ["/home/featherwire/.cache/featherwire", "/var/lib/featherwire"]
EXPOSE 7570 8080 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "/usr/local/lib/featherwire/healthcheck.py", "localhost:7570", "/etc/featherwire/keys/ca.pem"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["featherwire-cloud"]
CMD ["serve", "--config", "/etc/featherwire/cloud.yaml"]
