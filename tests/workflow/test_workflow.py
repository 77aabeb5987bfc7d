"""The workflow: a study in four parts is the study of one process, also where a part is killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = os.environ.get("SNAKEMAKE") or shutil.which("snakemake")
SYSTEM_SETTINGS = Path("/etc/slurm/slurm.conf")
SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
# Stands for `repro`: that of this environment, but part 2 is killed once amid its runs.
REPRO = """#!/bin/sh
if [ "$1" = run ] && [ -d "$MARKS/mastery-done" ] && echo "$*" | grep -q -- "--part 2/4" \\
    && mkdir "$MARKS/killed" 2>/dev/null; then
  {python} -m repro.cli "$@" &
  until ls "$REPRO_CACHE"/records/finetune/*.json >/dev/null 2>&1; do
    kill -0 $! 2>/dev/null || break
    sleep 0.1
  done
  kill -9 $!
  exit 137
fi
{python} -m repro.cli "$@" | tee -a "$MARKS/log"
"""

needs_snakemake = pytest.mark.skipif(
    not SNAKEMAKE, reason="snakemake is not installed (set SNAKEMAKE to its path): no workflow runs"
)


def records(cache: Path) -> dict[str, dict]:
    """Return parameters and result of each record by its file; what took how long is left out."""
    read = {}
    for path in sorted((cache / "records").rglob("*.json")):
        record = json.loads(path.read_bytes())
        result = {k: v for k, v in record["result"].items() if k != "seconds"}
        read[f"{record['kind']}/{path.name}"] = {"params": record["params"], "result": result}
    return read


def tables(cache: Path) -> dict[str, bytes]:
    """Return the bytes of each table beside a record."""
    return {path.name: path.read_bytes() for path in (cache / "records").rglob("*.csv")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Return the cache of `micro-s` under `smoke`, run in one go."""
    cache = tmp_path_factory.mktemp("one") / "cache"
    command = [sys.executable, "-m", "repro.cli", "run", "micro-s", "--profile", "smoke"]
    subprocess.run(command, env=environment(cache), check=True, timeout=600)
    return cache


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of a study with this cache and no committed results."""
    return os.environ | {"REPRO_CACHE": str(cache), "REPRO_RESULTS": str(cache.parent / "results")}


@pytest.fixture
def step(tmp_path) -> tuple[Path, dict[str, str]]:
    """Return the command that stands for `repro`, and its environment."""
    marks = tmp_path / "marks"
    marks.mkdir()
    command = tmp_path / "repro"
    command.write_text(REPRO.format(python=sys.executable), encoding="utf-8")
    command.chmod(0o755)
    return command, environment(tmp_path / "cache") | {"MARKS": str(marks)}


def workflow(step, tmp_path, *options: str) -> subprocess.CompletedProcess:
    """Run the workflow in four parts."""
    command, variables = step
    settings = ["model=micro-s", "study=smoke", "parts=4", f"repro={command}", "memory_mb=1500"]
    # The mark says that the runs have begun, so that the kill falls among them.
    mastery = f"{tmp_path}/state/micro-s-smoke/mastery"
    base = [
        SNAKEMAKE,
        "--snakefile",
        str(ROOT / "workflow/Snakefile"),
        "--directory",
        str(tmp_path),
    ]
    config = ["--config", *settings, f"work={tmp_path}/state"]
    first = [*base, *options, *config, "--", *(f"{mastery}-{part}" for part in range(1, 5))]
    subprocess.run(first, env=variables, check=True, timeout=600)
    Path(variables["MARKS"], "mastery-done").mkdir()
    return subprocess.run([*base, *options, *config], env=variables, timeout=900)


def is_the_study(step, undisturbed: Path) -> None:
    """Check that records are those of one run, that one part was killed, and no work done twice."""
    variables = step[1]
    cache, marks = Path(variables["REPRO_CACHE"]), Path(variables["MARKS"])
    assert records(cache) == records(undisturbed)
    assert tables(cache) == tables(undisturbed)
    assert (marks / "killed").is_dir()
    lines = (marks / "log").read_text(encoding="utf-8").splitlines()
    numbers = [int(line.split(": ")[1].split()[0]) for line in lines if "new records" in line]
    # Each record was made by one process; what the killed one had stored, none has counted.
    assert 0 < sum(numbers) <= len(records(undisturbed))
    assert list(Path(variables["REPRO_RESULTS"]).glob("micro-s/smoke/*.jsonl"))


@needs_snakemake
def test_parts_on_this_machine(step, tmp_path, undisturbed):
    options = ["--executor", "local", "--cores", "2", "--retries", "2"]
    assert workflow(step, tmp_path, *options).returncode == 0
    is_the_study(step, undisturbed)


SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def slurm():
    """Start a SLURM of one node on this machine and return the path of its settings."""
    missing = [
        name for name in SLURM if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    ]
    if missing or os.geteuid() != 0:
        pytest.skip(f"SLURM cannot be started here: it needs root, and {missing or 'all is there'}")
    if SYSTEM_SETTINGS.exists():
        pytest.skip(
            f"SLURM is set up on this machine ({SYSTEM_SETTINGS}): the test leaves it alone"
        )
    # A socket's path may have 107 characters at most.
    folder = Path("/run") / f"slurm-test-{os.getpid()}"
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    folder.chmod(0o755)
    settings = folder / "slurm.conf"
    ports, host = (free_port(), free_port()), socket.gethostname().split(".")[0]
    settings.write_text(
        SETTINGS.format(folder=folder, host=host, ports=ports, cores=os.cpu_count())
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    # Jobs find the settings there: Snakemake takes SLURM's variables out of their environment.
    SYSTEM_SETTINGS.parent.mkdir(exist_ok=True)
    SYSTEM_SETTINGS.symlink_to(settings)
    daemons = start_daemons(folder, settings)
    try:
        wait_for_node(settings)
        yield settings
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        SYSTEM_SETTINGS.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def start_daemons(folder: Path, settings: Path) -> list[subprocess.Popen]:
    """Start munged, slurmctld and slurmd in the foreground, so that the test can end them."""
    munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
    munge |= {"log-file": "munged.log", "seed-file": "munge.seed"}
    commands = [
        ["/usr/sbin/munged", "-F", "--force", *(f"--{k}={folder / v}" for k, v in munge.items())],
        ["/usr/sbin/slurmctld", "-D", "-f", str(settings)],
        ["/usr/sbin/slurmd", "-D", "-f", str(settings)],
    ]
    started = []
    for command in commands:
        started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        time.sleep(1)
    return started


def wait_for_node(settings: Path) -> None:
    """Wait until the node takes jobs; skip the test, with SLURM's own words, if it never does."""
    state = ""
    for _ in range(30):
        listing = subprocess.run(
            ["sinfo", "-h", "-o", "%t"],
            env=os.environ | {"SLURM_CONF": str(settings)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        state = listing.stdout.strip()
        if state == "idle":
            return
        time.sleep(1)
    log = settings.with_name("slurmd.log")
    last = log.read_text(encoding="utf-8").splitlines()[-1:] if log.exists() else []
    pytest.skip(f"SLURM's node stays {state or 'unknown'}: {' '.join(last)}")


@needs_snakemake
def test_parts_on_a_real_slurm(step, tmp_path, undisturbed, slurm):
    step[1]["SLURM_CONF"] = str(slurm)
    options = ["--executor", "slurm", "--jobs", "4", "--retries", "2", "--latency-wait", "20"]
    options += ["--slurm-status-command", "squeue", "--slurm-no-account"]
    options += ["--slurm-init-seconds-before-status-checks", "5"]
    options += ["--slurm-logdir", str(tmp_path / "logs"), "--default-resources"]
    options += ["slurm_partition=main"]
    assert workflow(step, tmp_path, *options).returncode == 0
    is_the_study(step, undisturbed)
