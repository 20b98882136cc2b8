#!/bin/sh
# A real Slurm of one node, on this machine alone: srun starts ranks, and ddprun starts them through srun.
#
#     apt-get install --no-install-recommends slurmctld slurmd slurm-client
#     tests/slurm/run.sh [path of a Python with Lockstep]
#
# Needs root. The daemons know no authentication: they run in namespaces of their own, which nobody reaches from outside
# and which end with this script. Prints what failed, or that all is well.
set -eu

[ "${LOCKSTEP_SLURM-}" ] || LOCKSTEP_SLURM=1 exec unshare --net --pid --fork --kill-child --mount-proc "$0" "$@"
ip link set lo up
ip link add lockstep0 type veth peer lockstep1  # leads nowhere; glibc resolves no name for servers on loopback alone
ip address add 10.88.0.1/24 dev lockstep0
ip link set lockstep0 up
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-$root/.venv/bin/python}
work=$(mktemp -d)
host=$(hostname -s)

end() {
    status=$?
    [ $status -eq 0 ] || tail -n 20 "$work"/*.log >&2 || true
    kill $slurmd_pid $slurmctld_pid 2>/dev/null || true
    wait
    rm -rf "$work"
    exit $status
}
slurmctld_pid='' slurmd_pid=''
trap end EXIT
trap 'exit 1' INT TERM

cat > "$work/slurm.conf" <<CONF
ClusterName=lockstep
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=5
CONF
export SLURM_CONF="$work/slurm.conf"
mkdir "$work/state" "$work/spool" "$work/home"
slurmctld -D >/dev/null 2>&1 & slurmctld_pid=$!
slurmd -D >/dev/null 2>&1 & slurmd_pid=$!

tries=0
until srun --immediate=1 true 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { echo "slurm: no node within 60 tries" >&2; exit 1; }
    sleep 0.5
done

cat > "$work/ranks.py" <<'SCRIPT'
import ddp
ddp.init_process_group("zmq", timeout=20)
ddp.barrier()
world = ddp.world_from_env()
print(f"rank {world.rank} of {world.size} by {world.launcher}, job {len(world.job)}, {world.master_addr}")
ddp.destroy_process_group()
SCRIPT

expect() {  # what each of the lines of a command must be, in any order
    expected=$1
    shift
    found=$("$@" | sort)
    [ "$found" = "$expected" ] || { printf '%s:\nexpected\n%s\ngot\n%s\n' "$*" "$expected" "$found" >&2; exit 1; }
}

cd "$root"
"$python" -m launch keygen "$work/key"
# The ranks find their places, rank 0's host, a port and the job's name by Slurm's variables alone.
LOCKSTEP_KEY_FILE=$work/key expect "rank 0 of 2 by slurm, job 9, $host
rank 1 of 2 by slurm, job 9, $host" srun -n 2 "$python" "$work/ranks.py"
# Without a key: those of one node agree on one.
expect "rank 0 of 2 by slurm, job 9, $host
rank 1 of 2 by slurm, job 9, $host" srun -n 2 "$python" "$work/ranks.py"
# ddprun makes the job and its key.
HOME=$work/home expect "0: rank 0 of 2 by slurm, job 32, $host
1: rank 1 of 2 by slurm, job 32, $host" "$python" -m launch --launcher srun -n 2 "$work/ranks.py"
[ -z "$(ls -A "$work/home")" ]  # the key is gone
# The first failure ends the step. srun says whose it was; its status is the highest, here that of a task that it killed.
printf 'import os, sys, time\nsys.exit(7) if os.environ["SLURM_PROCID"] == "1" else time.sleep(100)\n' > "$work/fail.py"
! HOME=$work/home "$python" -m launch --launcher srun -n 2 "$work/fail.py" 2>"$work/out"
grep -q "task 1: Exited with exit code 7" "$work/out" && grep -q "ddprun: srun .* exited with status" "$work/out"
echo "slurm: all is well"
