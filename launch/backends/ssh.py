"""Ranks on the hosts of a hostfile: over ssh, each host runs a ddprun of its own, as if it had been typed there.

What a host needs: a login without a password (ssh asks nothing: BatchMode), and this Python, Lockstep and the script at
the same paths. It gets the working directory and the variables of `launch.job.EXPORTED`, no others. The key, new in
each run, goes over ssh's standard input; so do signals, and when the connection ends the ranks there end.
The first host of the file is where the others meet, at a port that we choose or at --rdzv.
"""

from __future__ import annotations

import shlex

from launch.backends.base import Launcher, Plan, Process, Session, counted, cpu
from launch.hostfile import Host
from launch.job import KEY_FROM_STDIN, Job

# A host that has vanished is noticed within 15 s, a command that would ask for a password fails.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=5")


class SshLauncher(Launcher):
    name = "ssh"

    def plan(self, job: Job, session: Session) -> Plan:
        first_ranks = [sum(host.slots for host in job.hosts[:node]) for node in range(len(job.hosts))]
        return Plan(
            processes=tuple(
                Process(
                    rank=first_ranks[node],
                    argv=(*SSH, host.name, _remote(node, host, job, session)),
                    env={},
                    name=f"host {host.name}",
                    prefixed=False,
                    commanded=True,
                )
                for node, host in enumerate(job.hosts)
            ),
            notes=(f"{counted(job.size, 'rank')} on {counted(len(job.hosts), 'host')} of {job.hostfile}, by ssh",),
        )


def _remote(node: int, host: Host, job: Job, session: Session) -> str:
    """The line for the shell of the host."""
    settings = {**dict(job.exports), "LOCKSTEP_RESTART": str(session.restart)}
    ddprun = [
        *(job.python, "-m", "launch", "-n", str(host.slots)),
        *("--nodes", str(len(job.hosts)), "--node-rank", str(node)),
        *("--rdzv", f"{job.master_addr or job.hosts[0].address}:{session.master_port}"),
        *("--rdzv-timeout", f"{job.meeting_timeout_s:g}", "--key-file", KEY_FROM_STDIN),
        *(("--job", job.name) if job.name else ()),
        *(("--bind", "cores") if job.bind else ()),
        *(("--output", "files" if job.shown == () else "tee", "--log-dir", job.log_dir) if job.log_dir else ()),
        *(("--ranks", ",".join(map(str, job.shown))) if job.shown else ()),
        *(("--timeline", job.timeline) if job.timeline else ()),
        *(("--progress",) if job.progress else ()),
        *(("--as-torch", *cpu(job)) if job.as_torch else ()),
        *job.program,
        *job.args,
    ]
    env = ["env", *(f"{name}={value}" for name, value in settings.items())]
    return f"cd {shlex.quote(job.directory)} && exec {shlex.join([*env, *ddprun])}"
