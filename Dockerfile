# One image for every process of Lern: `lern worker`, `lern bridge`, `lern migrate` and the rest of `lern --help`.
#
#     docker build --tag lern .
#
# The private Redis of the embedded default is left out: in a container the broker is a server of its own.

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The same versions as everybody tests with.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt hatchling
COPY pyproject.toml README.md celeryconfig.py ./
COPY lern lern
COPY tasks tasks
COPY workflows workflows
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .
# Without pip: nothing is installed in a container that runs.
RUN python -m venv --without-pip /opt/lern \
    && pip --python /opt/lern/bin/python install --constraint constraints.txt \
        "$(echo /wheels/lern-*.whl)[worker,bridge,flower,cassandra,elasticsearch,postgresql]"

FROM python:3.12-slim
# A number, so that an orchestrator can see that it is not root.
RUN groupadd --system --gid 10001 lern \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/lern --shell /usr/sbin/nologin lern \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/lern
COPY --from=build /opt/lern /opt/lern
ENV PATH=/opt/lern/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LERN_DATA_DIR=/var/lib/lern \
    LERN_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/lern
CMD ["lern", "--help"]
