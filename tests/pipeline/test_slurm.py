"""The pipeline under a real Slurm of one node, with cgroup limits."""

from __future__ import annotations

import subprocess
import sys

import anndata

from scale_toolkit.stages.receipts import receipts

from .conftest import SMALL, content, environment


def test_under_slurm_the_same_content(slurm, demo, launch, tmp_path):
    run = launch(tmp_path, *SMALL[2:], "-profile", "test,slurm", "--queue", "cpu", "--skip_multiqc")
    assert run.code == 0, run.said
    assert set(run.status().values()) == {"COMPLETED"}
    header = (run.works("TRAIN demo") / ".command.run").read_text()
    assert "#SBATCH -p cpu" in header
    assert "#SBATCH --mem" in header
    assert "--gres" not in header
    here, there = content(run.results / "demo" / "adata.h5ad"), content(demo.results / "demo" / "adata.h5ad")
    assert {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)} == set()


def test_a_gpu_is_scheduled_for_the_training_alone(slurm, launch, tmp_path):
    """Slurm's own word on each job, from inside it. The training itself is a stub: there is no GPU here."""
    (tmp_path / "tell.config").write_text("process.beforeScript = 'scontrol show job $SLURM_JOB_ID > job.txt; env > env.txt'\n")
    words = ("-profile", "test,slurm,gpu", "--queue", "cpu", "--gpu_queue", "gpu", "-stub-run", "--skip_multiqc")
    run = launch(tmp_path, *words, "-c", "tell.config")
    assert run.code == 0, run.said
    jobs = {task["process"].split(":")[-1]: run.works(f"{task['process'].split(':')[-1]} demo") for task in run.tasks}
    with_gpu = {
        stage for stage, at in jobs.items() if "gres" in (at / "job.txt").read_text().lower().replace("gres=(null)", "")
    }
    assert with_gpu == {"TRAIN"}
    assert "Partition=gpu" in (jobs["TRAIN"] / "job.txt").read_text()
    assert "CUDA_VISIBLE_DEVICES=0" in (jobs["TRAIN"] / "env.txt").read_text()
    assert all("Partition=cpu" in (at / "job.txt").read_text() for stage, at in jobs.items() if stage != "TRAIN")


def test_use_gpu_where_there_is_none_is_the_trainings_error(slurm, launch, small, tmp_path):
    import torch

    if torch.cuda.is_available():
        return
    words = ("-profile", "slurm,gpu", "--stop_after", "train", "--threads", "1", "--prepare_min_peaks", "10", "--skip_multiqc")
    run = launch(tmp_path, *words, "--input", small / "a.h5ad")
    assert run.code != 0
    assert run.samples() == {"a": ["failed", "train"]}
    assert "#SBATCH --gres=gpu:1" in (run.works("TRAIN a") / ".command.run").read_text()
    assert "cuda" in (run.works("TRAIN a") / ".command.err").read_text().lower()


def test_a_task_killed_for_memory_is_retried_with_more_and_finishes(slurm, launch, small, tmp_path):
    """The training is given less than it needs: the kernel kills it in its cgroup, and the second attempt has enough."""
    (tmp_path / "scarce.config").write_text(
        "process { withName: 'TRAIN' { memory = { 250.MB * task.attempt * task.attempt * task.attempt } } }\n"
    )
    words = ("-profile", "slurm", "--stop_after", "train", "--threads", "1", "--prepare_min_peaks", "10", "--skip_multiqc")
    run = launch(tmp_path, *words, "--train_max_iter", "20", "--input", small / "a.h5ad", "-c", "scarce.config")
    assert run.code == 0, run.said
    attempts = sorted((int(t["attempt"]), t["status"], t["exit"]) for t in run.tasks if t["process"].endswith("TRAIN"))
    assert [status for _, status, _ in attempts] == ["FAILED", "COMPLETED"]
    assert attempts[0][2] == "137"
    assert anndata.read_h5ad(run.results / "a" / "adata.h5ad").obsm["X_scale"].shape[0] > 0


def test_torchrun_trains_in_two_processes_of_a_job(slurm, small, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "scale_toolkit"]
    train = ["train", small / "a.h5ad", "-k", "2", "--max-epochs", "3", "-o", tmp_path / "out.h5ad"]
    job = ["srun", "-p", "cpu", "-N", "1", "-n", "1", "-c", "2", "--mem", "3G", *torchrun, *train]
    words = [str(word) for word in job]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    trained = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert receipts(trained)[-1]["notes"]["processes"] == 2


def test_the_pipeline_trains_in_two_processes(slurm, launch, small, tmp_path):
    words = ("-profile", "slurm", "--queue", "cpu", "--stop_after", "train", "--threads", "2", "--prepare_min_peaks", "10")
    more = ("--skip_multiqc", "--train_devices", "2", "--train_max_epochs", "3", "--input", small / "a.h5ad")
    run = launch(tmp_path, *words, *more)
    assert run.code == 0, run.said
    trained = anndata.read_h5ad(run.results / "a" / "adata.h5ad")
    assert receipts(trained)[-1]["notes"]["processes"] == 2
