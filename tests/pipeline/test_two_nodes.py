"""One model trained on two machines: a Slurm of two nodes, both on this machine (slurmd -N), of its own configuration."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import anndata
import pytest

from scale_toolkit.stages.receipts import receipts

CONFIGURATION = """
ClusterName=two
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
NodeName=first NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=two Nodes=first,second Default=YES State=UP
"""


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def two_nodes(slurm, tmp_path_factory):
    """The path of the configuration of a Slurm with two nodes that are free."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "state").mkdir()
    path = folder / "slurm.conf"
    path.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=free_ports(3)))
    surroundings = {**os.environ, "SLURM_CONF": str(path)}
    # each in a session of its own: at its end slurmctld signals its process group
    daemons = [
        subprocess.Popen(words, env=surroundings, start_new_session=True)
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "first"], ["slurmd", "-D", "-N", "second"])
    ]
    until = time.monotonic() + 60
    while time.monotonic() < until:
        said = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], env=surroundings, capture_output=True, text=True).stdout
        if said.strip() == "2":
            break
        time.sleep(0.5)
    else:
        pytest.fail("".join(log.read_text() for log in folder.glob("*.log")))
    yield path
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        daemon.wait(timeout=60)


def test_the_pipeline_trains_on_two_machines(two_nodes, launch, small, tmp_path):
    words = ("-profile", "slurm", "--queue", "two", "--stop_after", "train", "--threads", "1", "--prepare_min_peaks", "10")
    more = ("--skip_multiqc", "--train_nodes", "2", "--train_max_epochs", "3", "--input", small / "a.h5ad")
    run = launch(tmp_path, *words, *more, SLURM_CONF=str(two_nodes))
    assert run.code == 0, run.said
    trained = anndata.read_h5ad(Path(run.results) / "a" / "adata.h5ad")
    assert receipts(trained)[-1]["notes"]["processes"] == 2
