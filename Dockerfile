# btm for clusters with GPUs:   docker build -t btm .          (docs/release.md)
# CUDA comes with torch's own wheel; the host brings the driver and the NVIDIA Container Toolkit. For Apptainer:
# apptainer build btm.sif docker-daemon://btm:latest, then cluster.container=btm.sif (docs/slurm.md).
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
RUN pip install --no-cache-dir build==1.6.1
WORKDIR /source
COPY . .
RUN python -m build --wheel --outdir /wheel

FROM python:${PYTHON}-slim-bookworm
ARG TORCH=2.13.0
ARG EXTRAS=parquet,discover,lora,int8,gguf,remote,serve,cluster,eval,tensorboard
# trainer.compile and Triton call a C compiler while training.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "torch==${TORCH}"
RUN --mount=type=bind,from=build,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/*.whl)[${EXTRAS}]"
# Not root: Docker's --user, Apptainer and Pyxis put the caller's own number here.
RUN useradd --uid 1000 --create-home btm && install --directory --owner=btm /work
USER 1000
WORKDIR /work
ENV OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
ENTRYPOINT ["btm"]
CMD ["--help"]
