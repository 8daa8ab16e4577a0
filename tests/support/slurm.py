"""A Slurm cluster of one node, this machine, as Debian's slurm-wlm and munge bring it, in a folder of its own."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "sinfo", "scontrol", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
JobRequeue=1
MpiDefault=none
NodeName={host} CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "the daemons of Slurm are started by root"
    if (os.cpu_count() or 1) < 2:
        return "two tasks need two cores"
    gone = [each for each in PROGRAMS if shutil.which(each) is None]
    return f"{', '.join(gone)} not installed" if gone else None


@contextmanager
def cluster(folder):
    """Start it and yield the environment in which its commands find it."""
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    file, host = folder / "slurm.conf", socket.gethostname().split(".")[0]
    file.write_text(CONFIGURATION.format(host=host, ports=_ports(2), folder=folder, cores=os.cpu_count()))
    environment = {**os.environ, "SLURM_CONF": str(file)}
    places = {name: f"--{name}={folder}/munge.{name}" for name in ("socket",)}
    places |= {name: f"--{name}={folder}/munged.{name[:3]}" for name in ("pid-file", "log-file", "seed-file")}
    daemons = [
        subprocess.Popen(["munged", "--foreground", "--force", f"--key-file={key}", *places.values()], env=environment)
    ]
    try:
        while not (folder / "munge.socket").exists():
            time.sleep(0.1)
        daemons += [subprocess.Popen([name, "-D"], env=environment) for name in ("slurmctld", "slurmd")]
        ended = time.monotonic() + 60
        while "idle" not in _said(["sinfo", "-h", "-o", "%t"], environment):
            assert time.monotonic() < ended, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def state(job, environment):
    """State of a job, such as RUNNING, and how often it was started again."""
    said = _said(["scontrol", "show", "job", str(job)], environment)
    fields = dict(field.split("=", 1) for field in said.split() if "=" in field)
    return fields.get("JobState", ""), int(fields.get("Restarts", 0))


def _said(command, environment):
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _ports(count):
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
