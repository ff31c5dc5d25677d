#!/usr/bin/env bash
# A real Slurm of one's own on this machine, to try a cluster's configuration and for the tests:
#
#   tools/dev_slurm.sh start [DIR]    several virtual nodes with four pretended GPUs each
#   eval "$(tools/dev_slurm.sh env [DIR])"    now sbatch, squeue and hcl submit talk to it
#   tools/dev_slurm.sh stop [DIR]
#
# Nothing is installed and no root is needed: where Slurm is absent and apt is there, its packages
# are unpacked into a cache folder. Status 3: it cannot run here, and why. Without systemd, cgroups
# or accounting: `sacct` has nothing to say. A job is killed at its limit of memory. Partitions: main,
# and urgent, which preempts it. Several may run side by side, each in a DIR of its own.
#
#   HCL_SLURM_NODES=4   HCL_SLURM_CPUS=4   HCL_SLURM_CACHE=~/.cache/hcl/slurm
#   HCL_SLURM_UNPACK=1  unpack the packages even where Slurm is installed
set -euo pipefail

NODES=${HCL_SLURM_NODES:-4}
CPUS=${HCL_SLURM_CPUS:-4}
GPUS=4
CACHE=${HCL_SLURM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hcl/slurm}
PACKAGES="slurmctld slurmd slurm-client slurm-wlm-basic-plugins libmunge2 munge libhwloc15 libnss-wrapper liblua5.1-0"
export PATH="$PATH:/usr/sbin:/sbin"

cannot() {
    echo "dev_slurm: $*" >&2
    exit 3
}

installed() {
    local program
    for program in slurmctld slurmd sbatch munged; do
        command -v "$program" >/dev/null || return 1
    done
}

# Where Slurm is: PREFIX is empty where it is installed.
find_slurm() {
    PREFIX=""
    if [ -z "${HCL_SLURM_UNPACK:-}" ] && installed; then return; fi
    PREFIX=$CACHE
    if [ -x "$PREFIX/usr/sbin/slurmctld" ]; then return; fi
    command -v apt-get >/dev/null || cannot "Slurm is not installed, and there is no apt to get it with"
    command -v dpkg >/dev/null || cannot "Slurm is not installed, and there is no dpkg to unpack it with"
    mkdir -p "$PREFIX/debs"
    # A download that fails half way leaves no slurmctld in place: the next start tries again.
    # Fresh machines have no list of packages; a list of one's own needs no root.
    local own=(-o "Dir::State::lists=$PREFIX/apt/lists" -o "Dir::Cache=$PREFIX/apt")
    mkdir -p "$PREFIX/apt/lists/partial"
    (cd "$PREFIX/debs" && {
        timeout 120 apt-get download $PACKAGES || {
            timeout 120 apt-get "${own[@]}" update && timeout 120 apt-get "${own[@]}" download $PACKAGES
        }
    } >download.log 2>&1) || cannot "Slurm is not installed and its packages cannot be downloaded: $(tail -n 1 "$PREFIX/debs/download.log")"
    local package
    for package in "$PREFIX"/debs/*.deb; do dpkg -x "$package" "$PREFIX"; done
    # Slurm looks at its own program's name; the name with -wlm refuses GPUs.
    local program
    for program in slurmd slurmstepd slurmctld; do
        [ -e "$PREFIX/usr/sbin/$program" ] || ln -s "$program-wlm" "$PREFIX/usr/sbin/$program"
    done
}

# Variables of clients and daemons, as lines of NAME=VALUE.
variables() {
    echo "SLURM_CONF=$R/etc/slurm.conf"
    if [ -n "$PREFIX" ]; then
        local lib
        lib=$(dirname "$(find "$PREFIX/usr/lib" -name slurm-wlm -type d | head -n 1)")
        echo "PATH=$PREFIX/usr/bin:$PREFIX/usr/sbin:$PATH"
        echo "LD_LIBRARY_PATH=$lib/slurm-wlm:$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
    # Daemons bind to what the host's own name resolves to, and want an account of that name.
    if [ -e "$R/etc/hosts" ]; then
        local wrapper
        wrapper=$(find "${PREFIX:-}/usr/lib" -name libnss_wrapper.so 2>/dev/null | head -n 1)
        [ -n "$wrapper" ] || cannot "the host's name is not 127.0.0.1's, and libnss-wrapper is not there"
        echo "LD_PRELOAD=$wrapper"
        echo "NSS_WRAPPER_HOSTS=$R/etc/hosts"
        echo "NSS_WRAPPER_PASSWD=$R/etc/passwd"
        echo "NSS_WRAPPER_GROUP=$R/etc/group"
    fi
}

use_variables() {
    local line
    while IFS= read -r line; do export "${line?}"; done < <(variables)
}

free_ports() { # the first of $1 free ports in a row, below those the kernel gives away; see start
    python3 - "$1" <<'PYTHON'
import os, socket, sys
count = int(sys.argv[1])
for base in range(20000 + os.getpid() * 37 % 9000, 32000, count):
    sockets = []
    try:
        for port in range(base, base + count):
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", port))
        print(base)
        break
    except OSError:
        continue
    finally:
        for one in sockets:
            one.close()
else:
    sys.exit("no free ports")
PYTHON
}

configure() {
    local base last=$((10 + NODES)) user host gpu node
    base=$(free_ports $((NODES + 1))) || cannot "no free ports"
    rm -rf "$R/run" # an earlier one's
    host=$(hostname -s)
    user=$(id -un 2>/dev/null) || user=slurm
    mkdir -p "$R"/{etc,state,run,log,spool,dev}
    chmod 700 "$R"
    for ((gpu = 0; gpu < GPUS; gpu++)); do ln -sf /dev/null "$R/dev/gpu$gpu"; done
    for ((node = 11; node <= last; node++)); do mkdir -p "$R/spool/127.0.0.$node"; done
    if [ "$(getent hosts "$host" | awk '{print $1; exit}')" != 127.0.0.1 ] || ! id -un >/dev/null 2>&1; then
        echo "127.0.0.1 localhost $host $(hostname)" >"$R/etc/hosts"
        getent passwd >"$R/etc/passwd" || true
        getent group >"$R/etc/group" || true
        id -un >/dev/null 2>&1 || echo "$user:x:$(id -u):$(id -g)::$R:/bin/sh" >>"$R/etc/passwd"
    fi
    head -c 1024 /dev/urandom >"$R/etc/munge.key"
    chmod 600 "$R/etc/munge.key"
    echo "CgroupPlugin=cgroup/v1" >"$R/etc/cgroup.conf" # else slurmd dies in containers
    printf 'AutoDetect=off\nName=gpu File=%s/dev/gpu[0-%d]\n' "$R" $((GPUS - 1)) >"$R/etc/gres.conf"
    {
        [ -z "$PREFIX" ] || echo "PluginDir=$(find "$PREFIX/usr/lib" -name slurm-wlm -type d | head -n 1)"
        cat <<CONF
ClusterName=dev
# Jobs derive their ports from their ids: two clusters side by side are not to have the same.
FirstJobId=$((1 + RANDOM * 30))
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$base
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# Each requeue waits until the job's credential has expired; the default is two minutes.
AuthInfo=socket=$R/run/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$R/state
SlurmctldPidFile=$R/run/slurmctld.own
SlurmctldLogFile=$R/log/slurmctld.log
SlurmdPidFile=$R/run/slurmd.%n.own
SlurmdLogFile=$R/log/slurmd.%n.log
SlurmdSpoolDir=$R/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmctldTimeout=30
SlurmdTimeout=5
KillWait=30
MinJobAge=600
JobRequeue=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=127.0.0.[11-$last] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((base + 1))-$((base + NODES))] CPUs=$CPUS RealMemory=8000 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
    } >"$R/etc/slurm.conf"
}

launch() { # name, command...
    local name=$1
    shift
    setsid "$@" >>"$R/log/$name.console" 2>&1 </dev/null 9>&- &
    echo $! >"$R/run/$name.pid"
}

alive() { # pid; a zombie that nobody reaps is dead
    [ -e "/proc/$1/stat" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null
}

controller() { launch slurmctld slurmctld -D; }

node() {
    local step=()
    [ -z "$PREFIX" ] || step=(-d "$PREFIX/usr/sbin/slurmstepd")
    launch "slurmd.$1" slurmd -D -N "$1" "${step[@]}"
}

idle_nodes() { timeout 5 sinfo -h -N -o '%N %T' 2>/dev/null | awk '$2 == "idle" {print $1}' | sort -u | wc -l; }

start() {
    if [ -e "$R/run/slurmctld.pid" ] && alive "$(cat "$R/run/slurmctld.pid")"; then
        echo "dev_slurm: already running in $R" >&2
        return
    fi
    # One at a time until the daemons have their ports: two at once would choose the same.
    exec 9>"${TMPDIR:-/tmp}/hcl-slurm-$(id -u).lock"
    flock -w 300 9 || cannot "another start is in the way"
    find_slurm
    configure
    use_variables
    # --force: nobody else is to reach the socket, and munged would rather they could.
    launch munged munged --force --foreground --key-file="$R/etc/munge.key" --socket="$R/run/munge.sock" \
        --pid-file="$R/run/munged.own" --log-file="$R/log/munged.log" --seed-file="$R/run/munge.seed"
    local try number
    for ((try = 0; try < 100; try++)); do
        [ -S "$R/run/munge.sock" ] && break
        sleep 0.05
    done
    controller
    for ((number = 11; number <= 10 + NODES; number++)); do node "127.0.0.$number"; done
    local patience=$((SECONDS + 240))
    while ((SECONDS < patience)); do
        if [ "$(idle_nodes)" -eq "$NODES" ]; then
            exec 9>&-
            echo "dev_slurm: $NODES nodes, $GPUS pretended GPUs each, in $R" >&2
            return
        fi
        sleep 0.1
    done
    tail -n 3 "$R"/log/*.console >&2 || true
    stop
    # Not status 3, which is for machines that cannot have a Slurm.
    echo "dev_slurm: the nodes did not come up; see $R/log" >&2
    exit 1
}

terminate() { # names...
    local name pid try
    for name in "$@"; do
        [ -e "$R/run/$name.pid" ] && kill "$(cat "$R/run/$name.pid")" 2>/dev/null || true
    done
    for name in "$@"; do
        [ -e "$R/run/$name.pid" ] || continue
        pid=$(cat "$R/run/$name.pid")
        for ((try = 0; try < 100; try++)); do
            alive "$pid" || break
            sleep 0.05
        done
        ! alive "$pid" || kill -KILL "$pid" 2>/dev/null || true
        rm -f "$R/run/$name.pid"
    done
}

sweep() { # what the cluster's jobs left: processes whose environment holds this SLURM_CONF
    local entry pid
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        [ "$pid" = "$$" ] || [ "$pid" = "$PPID" ] && continue
        if grep -qzxF "SLURM_CONF=$R/etc/slurm.conf" "$entry/environ" 2>/dev/null &&
            grep -qz '^SLURM_JOB_ID=\|^SLURMSTEPD' "$entry/environ" 2>/dev/null; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
}

stop() {
    [ -e "$R/etc/slurm.conf" ] || return 0
    find_slurm
    use_variables
    local nodes=() file
    timeout 10 scancel --user "$(id -u)" --signal=KILL 2>/dev/null || true
    timeout 10 scancel --user "$(id -u)" 2>/dev/null || true
    for file in "$R"/run/slurmd.*.pid; do
        [ -e "$file" ] && nodes+=("$(basename "$file" .pid)")
    done
    terminate "${nodes[@]}"
    terminate slurmctld
    terminate munged
    sweep
    rm -rf "$R/state" "$R/spool" "$R/run"
}

case "${1:-}" in
start | stop | env | node | controller)
    action=$1
    if [ "$action" = node ]; then
        NAME=${2:?node NAME [DIR]}
        shift
    fi
    R=$(realpath -m "${2:-${TMPDIR:-/tmp}/hcl-slurm-$(id -u)}")
    case "$R" in *[[:space:]%\'\"]*) cannot "$R: Slurm's files allow no blanks, quotes or % in paths" ;; esac
    case "$action" in
    start) start ;;
    stop) stop ;;
    env)
        find_slurm
        variables | while IFS='=' read -r key value; do printf 'export %s=%q\n' "$key" "$value"; done
        ;;
    node) # start a node's daemon again
        find_slurm
        use_variables
        node "$NAME"
        ;;
    controller) # likewise
        find_slurm
        use_variables
        controller
        ;;
    esac
    ;;
*)
    sed -n '2,14s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
