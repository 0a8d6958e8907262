# The picker, and with another command a simulated model server:  docker build -t endpoint-picker .
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
# The lock's versions, for what pyproject.toml itself needs: the lock also names the tools of development.
RUN grep -E '^[A-Za-z0-9_.-]+==' requirements.lock | sed 's/ *\\$//' > constraints.txt
COPY epp epp
COPY plugins plugins
RUN python -m venv /opt/epp \
    && /opt/epp/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt .

FROM python:3.13-slim
COPY --from=build /opt/epp /opt/epp
ENV PATH=/opt/epp/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 65532 --user-group --no-create-home epp
USER 65532:65532
# ext_proc, health, metrics and admin
EXPOSE 9002 9003 9090
CMD ["epp", "serve"]
