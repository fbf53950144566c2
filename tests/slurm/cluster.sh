#!/usr/bin/env bash
# A real Slurm cluster of several virtual nodes on one machine: no systemd, no cgroups, nothing in /etc/slurm.
#
#   cluster.sh up       start what is not running (idempotent)
#   cluster.sh down     cancel all jobs, stop exactly the daemons that were started here
#   cluster.sh status   what runs
#
# Knobs (environment):
#   CLUSTER=folder   configuration, state, logs, pids: all disposable; must be absolute
#   NODES=4 CPUS=8 GPUS=4 MEMORY=64000   nodes, and what each pretends to have (all at least 1)
#   ACCOUNTING=1     with slurmdbd and a private MariaDB, so that sacct works
#   PORT=number      first of NODES+2 free ports; found when unset
#   OWNER=pid        come down by itself when that process is gone
#   EXTRA='Line=1'   more slurm.conf lines
#
# Commands reach the cluster through SLURM_CONF=$CLUSTER/slurm.conf. Everything listens and talks on
# the loopback interface. The one thing outside $CLUSTER is a line of node names in /etc/hosts, which
# jobs on several nodes need. Works with Debian 12's Slurm 22.05, as root.
set -euo pipefail
CLUSTER=${CLUSTER:-${TMPDIR:-/tmp}/alignc-slurm}
NODES=${NODES:-4} CPUS=${CPUS:-8} GPUS=${GPUS:-4} MEMORY=${MEMORY:-64000} ACCOUNTING=${ACCOUNTING:-0}
export CLUSTER
MARK="# alignc test cluster $CLUSTER"
PIDS=$CLUSTER/pids                   # "name pid starttime" of what was started here
export SLURM_CONF=$CLUSTER/slurm.conf PATH=$PATH:/usr/sbin:/sbin

log()   { echo "cluster: $*" >&2; }
die()   { log "$*"; exit 1; }
# The kernel's start time of a pid tells a reused pid; empty for a zombie (pid 1 may reap late) or none.
start() { awk '{sub(/.*\) /, "")} $1 != "Z" {print $20}' "/proc/$1/stat" 2>/dev/null || true; }
same()  { [ -n "${2:-}" ] && [ "$(start "$1")" = "$2" ]; }
alive() { local n p s; while read -r n p s; do [ "$n" = "$1" ] && same "$p" "$s" && return 0; done < "$PIDS"; return 1; }

wait_for() { # WHAT COMMAND...: until the command succeeds, 15 s at most
  local what=$1; shift
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done
  die "timed out waiting for $what (logs: $CLUSTER/*.log)"
}

note() { # NAME PIDFILE: remember what was started, once the pid file names a live process
  wait_for "$1" sh -c "kill -0 \$(cat '$2')"
  local p; p=$(cat "$2"); sed -i "/^$1 /d" "$PIDS"; echo "$1 $p $(start "$p")" >> "$PIDS"
}

used() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_ports() { # print the first of $1 consecutive unused ports, below the range that clients get theirs from
  local try first port
  for try in $(seq 200); do
    first=$((16000 + (RANDOM + $$ + try) % 12000))
    for port in $(seq "$first" $((first + $1 - 1))); do used "$port" && continue 2; done
    echo "$first"; return 0
  done
  die "no $1 free ports"
}

write_conf() {
  local host port; host=$(hostname -s); port=${PORT:-$(free_ports $((NODES + 2)))}
  cat > "$SLURM_CONF" <<EOF
ClusterName=alignc
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also the wait before a requeued job may start again (120 s by default)
AuthInfo=socket=$CLUSTER/munge.socket,cred_expire=5
MpiDefault=none
MailProg=/bin/true

# no systemd, no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
# stands in for the kernel's OOM killer: a step above its --mem is killed (FAILED, not OUT_OF_MEMORY)
JobAcctGatherParams=OverMemoryKill

StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool.%n
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd.%n.pid
SlurmctldLogFile=$CLUSTER/slurmctld.log
SlurmdLogFile=$CLUSTER/slurmd.%n.log

# short queues, low latency
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,default_queue_depth=10000,bf_max_job_test=10000
EpilogMsgTime=0
KillWait=2
MaxArraySize=10001
MaxJobCount=50000
MinJobAge=600
SlurmdTimeout=15
ReturnToService=2
# a job in the partition high requeues jobs of low
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

$(accounting_conf "$((port + NODES + 1))")

# one slurmd for each node, told apart by port; config_overrides: believe this, not the hardware
SlurmdParameters=config_overrides
GresTypes=gpu
# without it a job takes the whole memory of its node
DefMemPerCPU=1000
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + NODES))] CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:a100:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=5 PreemptMode=OFF
PartitionName=low  Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=9 PreemptMode=OFF
${EXTRA:-}
EOF
  # A gpu needs File=, and that must be a device (Count= alone is counted as 0): links to /dev/null do.
  mkdir -p "$CLUSTER/dev"; local i
  for i in $(seq 0 $((GPUS - 1))); do ln -sfn /dev/null "$CLUSTER/dev/gpu$i"; done
  cat > "$CLUSTER/gres.conf" <<EOF
AutoDetect=off
NodeName=n[1-$NODES] Name=gpu Type=a100 File=$CLUSTER/dev/gpu[0-$((GPUS - 1))]
EOF
  # MASTER_ADDR from `scontrol show hostnames` must resolve
  ( flock 9; grep -qF "$MARK" /etc/hosts || echo "127.0.0.1 $(seq -s' ' -f 'n%g' "$NODES") $MARK" >&9 ) 9>> /etc/hosts
}

accounting_conf() { # PORT of slurmdbd: its lines of slurm.conf, and slurmdbd.conf
  if [ "$ACCOUNTING" != 1 ]; then echo AccountingStorageType=accounting_storage/none; return; fi
  cat <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$1
AccountingStoragePass=$CLUSTER/munge.socket
AccountingStorageTRES=gres/gpu
EOF
  (umask 077; cat > "$CLUSTER/slurmdbd.conf" <<EOF
DbdHost=localhost
DbdPort=$1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge.socket
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=$CLUSTER/slurmdbd.pid
LogFile=$CLUSTER/slurmdbd.log
EOF
  )
}

start_munge() { # a private munged with a key of its own
  alive munged && return 0
  [ -s "$CLUSTER/munge.key" ] || (umask 077; head -c 128 /dev/urandom > "$CLUSTER/munge.key")
  munged --force --key-file="$CLUSTER/munge.key" --socket="$CLUSTER/munge.socket" --pid-file="$CLUSTER/munged.pid" \
    --log-file="$CLUSTER/munged.log" --seed-file="$CLUSTER/munge.seed" 2>>"$CLUSTER/munged.log"
  wait_for munged sh -c "munge -S '$CLUSTER/munge.socket' -n | unmunge -S '$CLUSTER/munge.socket'"
  note munged "$CLUSTER/munged.pid"
}

start_accounting() {
  local db=$CLUSTER/mysql
  if ! alive mariadbd; then          # private: own data, a Unix socket only, no passwords
    [ -d "$db/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$db" --skip-test-db --skip-name-resolve > "$CLUSTER/mariadb-install.log" 2>&1
    setsid mariadbd --no-defaults --user=root --datadir="$db" --socket="$db/sock" --pid-file="$db/pid" \
      --skip-grant-tables --skip-networking --innodb-flush-log-at-trx-commit=0 > "$CLUSTER/mariadb.log" 2>&1 < /dev/null &
    wait_for mariadbd mariadb-admin --no-defaults --socket="$db/sock" ping
    note mariadbd "$db/pid"
  fi
  alive slurmdbd && return 0         # slurm.conf cannot name the socket; the client library reads this variable
  rm -f "$CLUSTER/slurmdbd.pid"
  MYSQL_UNIX_PORT=$db/sock slurmdbd
  note slurmdbd "$CLUSTER/slurmdbd.pid"
  wait_for slurmdbd sacctmgr -n show cluster
}

usable() { [ "$(sinfo -h -N -p main -o %T | grep -cE '^(idle|mixed|allocated|completing)$')" = "$NODES" ]; }

watch() { # OWNER STARTTIME: take the cluster down when its owner has gone
  while [ -f "$PIDS" ]; do
    same "$1" "$2" || { down; return; }
    sleep 1
  done
}

up() {
  [ "$(id -u)" = 0 ] || die "only root can start a cluster"
  case $CLUSTER in /*) ;; *) die "CLUSTER must be an absolute path" ;; esac
  for program in slurmctld slurmd sbatch munged; do
    command -v "$program" > /dev/null || die "$program is missing: apt-get install slurmctld slurmd slurm-client munge"
  done
  mkdir -p "$CLUSTER/state"; touch "$PIDS"; chmod 755 "$CLUSTER"
  alive slurmctld || write_conf
  if [ -n "${OWNER:-}" ]; then
    setsid bash "$0" watch "$OWNER" "$(start "$OWNER")" > "$CLUSTER/watch.log" 2>&1 < /dev/null &
  fi
  start_munge
  [ "$ACCOUNTING" != 1 ] || start_accounting
  if ! alive slurmctld; then
    rm -f "$CLUSTER/slurmctld.pid"; slurmctld; note slurmctld "$CLUSTER/slurmctld.pid"
  fi
  local i
  for i in $(seq "$NODES"); do
    alive "slurmd.n$i" && continue
    rm -f "$CLUSTER/slurmd.n$i.pid"; slurmd -N "n$i"; note "slurmd.n$i" "$CLUSTER/slurmd.n$i.pid"
  done
  wait_for slurmctld sh -c 'scontrol ping | grep -q UP'
  # a crash may have left nodes drained or down: this is a test cluster, take them back
  sinfo -h -N -p main -t drain,down,fail -o %N | sort -u | while read -r i; do scontrol update nodename="$i" state=resume 2>/dev/null || true; done
  wait_for "all nodes" usable
  log "up: $(sinfo -h -p main -o '%D nodes, %c cpus, %G each, %T'); export SLURM_CONF=$SLURM_CONF"
}

stop() { # NAME PID STARTTIME
  same "$2" "$3" || return 0
  kill "$2" || return 0
  for _ in $(seq 200); do same "$2" "$3" || return 0; sleep 0.05; done
  log "$1 ($2) ignores SIGTERM: SIGKILL"; kill -9 "$2" || true
}

down() {
  [ -f "$PIDS" ] || { log "nothing to stop"; return 0; }
  local n p s
  if alive slurmctld; then           # let running jobs die first, or their slurmstepds outlive us
    squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null || true
    for _ in $(seq 200); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.05; done
  fi
  while read -r n p s; do            # all slurmd at once: each takes a second or two
    if [[ $n = slurmd.* ]] && same "$p" "$s"; then kill "$p" || true; fi
  done < "$PIDS"
  while read -r n p s; do stop "$n" "$p" "$s"; done < <(tac "$PIDS")
  rm -f "$PIDS"
  ( flock 9; grep -vF "$MARK" /etc/hosts > "$CLUSTER/hosts"; cat "$CLUSTER/hosts" > /etc/hosts ) 9>> /etc/hosts
  log "down"
}

status() {
  [ -f "$PIDS" ] || { log "not up"; return 1; }
  local n p s
  while read -r n p s; do same "$p" "$s" && echo "$n $p running" || echo "$n $p DEAD"; done < "$PIDS"
  sinfo -N -o '%N %T %C %G' -p main
}

case ${1:-} in
  up|down|status|watch) "$@" ;;
  *) die "usage: $0 up|down|status" ;;
esac
