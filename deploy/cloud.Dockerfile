# The cloud server. From the repository's root:
#   CPU:  docker build -f deploy/cloud.Dockerfile --build-arg TORCH_INDEX=<PyTorch's CPU index> .
#   GPU:  docker build -f deploy/cloud.Dockerfile --build-arg DEVICE=cuda .
# The default index's Linux wheels of torch carry CUDA (gigabytes), which is what a GPU image needs
# and what a CPU image avoids by naming PyTorch's own CPU index. A GPU image runs under the NVIDIA
# container runtime (`docker run --gpus all`).
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=
WORKDIR /src
COPY . .
RUN python -m venv /opt/featherwire \
    && /opt/featherwire/bin/pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[cloud,tasks,postgres]'

FROM python:${PYTHON}-slim
ARG DEVICE=cpu
COPY --from=build /opt/featherwire /opt/featherwire
COPY deploy/cloud.yaml /etc/featherwire/cloud.yaml
COPY deploy/healthcheck.py /usr/local/lib/featherwire/healthcheck.py
# The cache of task weights and the log are volumes: a new image neither fetches nor forgets.
RUN useradd --create-home --uid 10001 featherwire \
    && install -d -o featherwire /home/featherwire/.cache/featherwire /var/lib/featherwire \
    && install -d -o featherwire /etc/featherwire/keys
ENV PATH=/opt/featherwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FEATHERWIRE_DEVICE=${DEVICE} \
    FEATHERWIRE_DATA=/var/lib/featherwire \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER featherwire
WORKDIR /home/featherwire
VOLUME ["/home/featherwire/.cache/featherwire", "/var/lib/featherwire"]
EXPOSE 7570
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "/usr/local/lib/featherwire/healthcheck.py", "localhost:7570", "/etc/featherwire/keys/ca.pem"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["featherwire-cloud"]
CMD ["serve", "--config", "/etc/featherwire/cloud.yaml"]
