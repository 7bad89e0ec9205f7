# The image of `nextflow run main.nf -with-docker`, and of `docker run IMAGE scale ...`:
#
#   docker build -t scale-toolkit:0.1.0 .                             PyTorch with CUDA 13 (driver 580 or later), or CPU alone
#   docker build -t scale-toolkit:0.1.0-cpu --build-arg TORCH=cpu .   PyTorch without CUDA; its wheel lies in ./wheelhouse
#
# BASE_IMAGE may be any Debian 12 or later or Ubuntu 24.04 with Python 3.11 to 3.13: PyTorch's wheels carry the CUDA libraries.
# A mirror or certificates of your own: --secret id=pip,src=$HOME/.config/pip/pip.conf (read while building, never kept).
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

# What both stages need; nothing is fetched where the base has it.
FROM ${BASE_IMAGE} AS python
RUN if ! command -v python3 >/dev/null || ! command -v ps >/dev/null || ! command -v awk >/dev/null; then \
        apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 procps mawk >/dev/null \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log; \
    fi

FROM python AS builder
RUN if ! python3 -c 'import ensurepip' 2>/dev/null; then \
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
    fi
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/scale
ENV PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.lock requirements/run.lock /requirements/
# The wheelhouse may be absent; LICENSE is there so that the line holds.
COPY LICENSE wheelhouse* /wheelhouse/
ARG TORCH=cu130
# Every file is checked against its hash in the locks. TORCH=cpu leaves torch and all of CUDA out of the lock and takes
# torch, in the lock's version, from the wheelhouse (checked against wheelhouse/SHA256SUMS where that is given).
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    set -eu; \
    install="/opt/pip/bin/pip --python /opt/scale/bin/python install --no-deps --no-input"; \
    locked="$install --require-hashes --only-binary=:all:"; \
    case "$TORCH" in \
    cu130) cp /requirements/run.lock /requirements/chosen.lock ;; \
    cpu) \
        awk '/^[a-z0-9]/ { cuda = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !cuda' \
            /requirements/run.lock > /requirements/chosen.lock; \
        version=$(awk -F'[= ]+' '/^torch==/ { print $2; exit }' /requirements/run.lock); \
        if [ -f /wheelhouse/SHA256SUMS ]; then (cd /wheelhouse && sha256sum --check SHA256SUMS); fi; \
        $install --no-index --find-links /wheelhouse "torch==$version" || { \
            echo "TORCH=cpu: no wheel of torch $version for this Python in wheelhouse/; expected PyTorch's CPU build, fetched with" \
                "'pip download --no-deps -d wheelhouse torch==$version' from PyTorch's own CPU index" >&2; exit 1; } ;; \
    *) echo "TORCH=$TORCH; expected cu130 or cpu" >&2; exit 1 ;; \
    esac; \
    $locked -r /requirements/build.lock; \
    $locked --no-binary=episcanpy --no-build-isolation --use-pep517 -r /requirements/chosen.lock
# The package on its own, so that a change of it leaves the gigabytes below it as they are.
COPY pyproject.toml README.md LICENSE /package/
COPY scale_toolkit /package/scale_toolkit
RUN /opt/pip/bin/pip --python /opt/scale/bin/python install --no-deps --no-index --no-build-isolation --no-cache-dir --root /out /package \
    && /opt/scale/bin/python -m compileall -q /out
# Headers, static libraries and build tools serve no run; bytecode makes the first call of a read-only image quick.
RUN /opt/pip/bin/pip --python /opt/scale/bin/python uninstall -qy hatchling editables pathspec pluggy trove-classifiers \
    && cd /opt/scale/lib/python3*/site-packages \
    && rm -rf torch/include torch/share/cmake torch/bin/protoc* nvidia/*/include nvidia/*/*/include nvidia/*/cmake \
    && find . -name '*.a' -delete \
    && /opt/scale/bin/python -c "import compileall; compileall.compile_dir('.', quiet=2, workers=0)"

# MultiQC has an environment of its own: its versions are not the package's affair.
FROM builder AS multiqc
COPY requirements/multiqc.lock /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/multiqc \
    && /opt/pip/bin/pip --python /opt/multiqc/bin/python install --no-deps --no-input --require-hashes --only-binary=:all: \
        -r /requirements/multiqc.lock \
    && find /opt/multiqc -name '*.a' -delete \
    && /opt/multiqc/bin/python -c "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2, workers=0)"

FROM python
COPY --from=builder /opt/scale /opt/scale
COPY --from=multiqc /opt/multiqc /opt/multiqc
COPY --from=builder /out /
RUN ln -s /opt/multiqc/bin/multiqc /usr/local/bin/multiqc
# What numba compiles is most of the time of a small `cluster`; done here, it serves every run on a processor of this kind.
RUN export PATH=/opt/scale/bin:$PATH HOME=/tmp/home PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR=/opt/compiled && mkdir /tmp/home \
    && cd /tmp/home && scale demo --quiet -o demo && scale impute demo/adata.h5ad --quiet --binary -o imputed.h5ad \
    && scale markers imputed.h5ad --quiet -o markers.h5ad && rm -rf /tmp/home
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="scale-toolkit" \
      org.opencontainers.image.description="SCALE for single-cell ATAC-seq: cluster and impute cells" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Any uid on a read-only root: whatever is written for a while goes below /tmp.
ENV PATH=/opt/scale/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp USER=scale PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache XDG_CONFIG_HOME=/tmp/config \
    SCALE_COMPILED=/opt/compiled TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /tmp
CMD ["scale", "--help"]
