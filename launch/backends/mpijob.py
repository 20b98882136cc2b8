"""An MPIJob for Kubernetes (kubeflow's mpi-operator, v2beta1), printed for kubectl: nothing is started here.

    ddprun --launcher mpijob --image IMAGE -n 8 --nodes 2 train.py | kubectl apply -f -

The image has Python, Lockstep with Open MPI, the script, and an ssh server, which is how the operator's mpirun reaches
its workers. The manifest refers to a Secret `NAME-key` with the key file `key`; make it once, or let `--inline-secret`
print one with a new key: whoever reads that text has the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ddp.errors import WorldError
from launch.backends.base import KEY_HERE, Launcher, Plan, Session, command
from launch.job import Job

KEY_DIR = "/run/lockstep"
# In the image there is one Python, by its name: a path of this machine means nothing there.
PYTHON = "python3"


class MPIJobLauncher(Launcher):
    name = "mpijob"
    runs = False

    def plan(self, job: Job, session: Session) -> Plan:
        name = job.name or "lockstep"
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", name):
            raise WorldError(f"--job: expected lower-case letters, digits and dashes for Kubernetes, got {name!r}")
        if job.inline_secret:
            head = [yaml(_secret(name)), "---"]
        else:
            make = f"ddprun keygen key && kubectl create secret generic {name}-key --from-file=key"
            head = [f"# Needs the Secret {name}-key, made once by: {make}"]
        return Plan((), manifest="\n".join([*head, yaml(_mpijob(name, job))]) + "\n")


def _mpijob(name: str, job: Job) -> dict[str, Any]:
    program = command(replace(job, python=PYTHON))
    env = {"LOCKSTEP_JOB": name, "LOCKSTEP_KEY_FILE": f"{KEY_DIR}/key", "PYTHONUNBUFFERED": "1"}
    launcher = {
        **_container("launcher", job),
        "env": [{"name": variable, "value": value} for variable, value in env.items()],
        "command": ["mpirun", "-n", str(job.size), *(word for variable in env for word in ("-x", variable)), *program],
    }
    return {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": {"name": name},
        "spec": {
            "slotsPerWorker": job.size // job.nodes,
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": job.restarts},
            "mpiReplicaSpecs": {
                "Launcher": _replicas(1, launcher, name),
                "Worker": _replicas(job.nodes, _container("worker", job), name),
            },
        },
    }


def _replicas(count: int, container: dict[str, Any], name: str) -> dict[str, Any]:
    # Lockstep reads no key that others can read: 0400, which YAML writes as 256.
    volume = {"name": "key", "secret": {"secretName": f"{name}-key", "defaultMode": 0o400}}
    return {
        "replicas": count,
        "restartPolicy": "Never",
        "template": {"spec": {"containers": [container], "volumes": [volume]}},
    }


def _container(role: str, job: Job) -> dict[str, Any]:
    return {
        "name": role,
        "image": job.image,
        "volumeMounts": [{"name": "key", "mountPath": KEY_DIR, "readOnly": True}],
    }


def _secret(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-key"},
        "type": "Opaque",
        "stringData": {"key": KEY_HERE},
    }


# -- YAML -------------------------------------------------------------------------------------------------------------


def yaml(value: dict[str, Any]) -> str:
    """Dicts, lists, strings and numbers as YAML. Strings that YAML might read as something else are quoted, as JSON."""
    return "\n".join(_lines(value))


def _lines(value: Any) -> Iterator[str]:
    for key, item in value.items() if isinstance(value, dict) else (("-", item) for item in value):
        lead = key if key == "-" else f"{key}:"
        if not isinstance(item, (dict, list)) or not item:
            yield f"{lead} {_scalar(item)}"
        elif key == "-":
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        else:
            yield lead
            yield from (f"  {line}" for line in _lines(item))


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]*", value, re.ASCII)
    words = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
    return str(value) if plain and value.lower() not in words else json.dumps(value)
