#!/bin/bash
# A Slurm of two nodes on one machine, for test_slurm.py: `bash slurm_lab.sh DIR CPUS COMMAND ...` runs COMMAND beside the controller, as root.
# Each node has a network, a process table and a host name of its own, so that Ray takes them for two machines; the file system is shared, as it is
# on a cluster. All of it lives in namespaces of this script and ends with it.
set -euo pipefail
if [ "${1-}" != --inside ]; then
    exec unshare --mount --net --pid --uts --fork --kill-child --mount-proc bash "$0" --inside "$@"
fi
shift
dir=$1 cpus=$2
shift 2
mkdir -p "$dir"/{state,log,n1,n2}
mount -t tmpfs none /run
mkdir -p /run/munge
chown munge /run/munge
hostname controller
printf '127.0.0.1 localhost\n10.77.0.254 controller\n10.77.0.1 n1\n10.77.0.2 n2\n' >"$dir/hosts"
mount --bind "$dir/hosts" /etc/hosts
cat >"$dir/slurm.conf" <<END
ClusterName=lab
SlurmctldHost=controller(10.77.0.254)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdSpoolDir=$dir/%n
StateSaveLocation=$dir/state
SlurmdPidFile=$dir/%n.pid
SlurmctldPidFile=$dir/ctld.pid
SlurmdLogFile=$dir/log/%n.log
SlurmctldLogFile=$dir/log/ctld.log
SlurmUser=root
ReturnToService=2
KillWait=5
NodeName=n1 NodeAddr=10.77.0.1 CPUs=$cpus RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeAddr=10.77.0.2 CPUs=$cpus RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverTimeLimit=0
END
export SLURM_CONF="$dir/slurm.conf"
ip link set lo up
ip link add br0 type bridge
ip address add 10.77.0.254/24 dev br0
ip link set br0 up
runuser -u munge -- munged --log-file=/run/munge/log --pid-file=/run/munge/pid --seed-file=/run/munge/seed
slurmctld
for i in 1 2; do
    # Ray's folder is a node's own: its sockets would be the other's.
    unshare --mount --net --pid --uts --fork --kill-child --mount-proc bash -c '
        set -eu
        hostname "n$1"
        mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
        until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
        ip link set lo up
        ip address add "10.77.0.$1/24" dev eth0
        ip link set eth0 up
        exec slurmd -D -N "n$1"' node "$i" >"$dir/log/slurmd-$i.out" 2>&1 &
    outer=$!
    until inner="$(pgrep -P "$outer")"; do sleep 0.1; done
    ip link add "v$i" type veth peer name eth0 netns "$inner"
    ip link set "v$i" master br0
    ip link set "v$i" up
done
for _ in $(seq 100); do
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null || true)" = 2 ] && break
    sleep 0.2
done
"$@"
