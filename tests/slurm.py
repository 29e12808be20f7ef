"""A Slurm cluster of one node on this machine, for tests: munged, slurmctld and slurmd."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

DAEMONS = "munged", "slurmctld", "slurmd"
SECONDS = 60  # to start
PATHS = "/usr/sbin:/usr/local/sbin:"
CONF = """
ClusterName=tests
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=300
SlurmdTimeout=300
KillWait=30
MinJobAge=3600
SlurmdParameters=config_overrides
NodeName={host} CPUs=8 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def lacking() -> str | None:
    """Why no cluster can be started here."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "Slurm's daemons need root on Linux"
    missing = [name for name in DAEMONS if not shutil.which(name, path=PATHS + os.environ["PATH"])]
    return f"{', '.join(missing)} not installed" if missing else None


class Cluster:
    """Within, `environment` leads Slurm's commands to it."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = Path(folder), []
        self.environment = os.environ | {
            "SLURM_CONF": f"{folder}/slurm.conf",
            "PATH": PATHS + os.environ["PATH"],
        }

    def __enter__(self) -> "Cluster":
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        host = socket.gethostname().split(".")[0]
        conf = CONF.format(host=host, folder=self.folder, ports=free_ports(2))
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        f = self.folder
        self.start("munged", "--foreground", "--force", f"--socket={f}/munge.socket",
                   f"--key-file={f}/munge.key", f"--pid-file={f}/munge.pid",
                   f"--seed-file={f}/munge.seed", f"--log-file={f}/munge.log")  # fmt: skip
        self.wait(lambda: (f / "munge.socket").exists())
        self.start("slurmctld", "-D", "-c")
        self.start("slurmd", "-D", "-N", host)
        self.wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "--full", "--user", "root")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def start(self, name: str, *words: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.daemons.append(
                subprocess.Popen([name, *words], env=self.environment, stdout=log, stderr=log)
            )

    def wait(self, ready) -> None:
        end = time.monotonic() + SECONDS
        while not ready():
            logs = "".join(p.read_text()[-2000:] for p in self.folder.glob("*.log"))
            assert time.monotonic() < end, logs
            time.sleep(0.2)

    def ask(self, *command: str, **more) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, **more
        )
        return done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
