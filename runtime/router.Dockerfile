# The sidecar beside Envoy in the routers of ABTests. Holds an `envoy` too, for those who want no image of another maker.
# Builds with docker and with buildah, from the repository's root: scripts/images router
ARG BASE_IMAGE=docker.io/library/python:3.11-slim

FROM ${BASE_IMAGE} AS packages
# Two environments, one installing into the other, so that the image holds no installer. The .pth file puts our own code on
# the path; it is copied and not installed, so this layer changes with the lock file only, and no build backend is needed.
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/venv \
 && echo /opt/modelyard >"$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/modelyard.pth"
COPY requirements/router.lock /tmp/router.lock
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/router.lock

FROM ${BASE_IMAGE} AS source
COPY LICENSE /opt/modelyard/
COPY runtime/modelyard_runtime/__init__.py runtime/modelyard_runtime/contract.py /opt/modelyard/modelyard_runtime/
COPY runtime/modelyard_router /opt/modelyard/modelyard_router
# The root file system is read-only in a cluster: compile now, and never look whether a source is newer.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/modelyard

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Modelyard router" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/venv /opt/venv
COPY --from=source /opt/modelyard /opt/modelyard
# /tmp is the one place that a pod may write to. LOGNAME: libraries that ask who they are look there before they
# look into /etc/passwd, which does not know this user.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    LOGNAME=modelyard \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "modelyard_router"]
