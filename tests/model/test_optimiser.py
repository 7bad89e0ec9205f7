import subprocess
import sys

import pytest
import torch

from scale_toolkit.model.optimiser import Adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torch(weight_decay):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((5, 3), (4,), (2, 2))]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    mine = Adam(ours, lr=0.05, weight_decay=weight_decay)
    oracle = torch.optim.Adam(theirs, lr=0.05, weight_decay=weight_decay)
    for step in range(30):
        mine.zero_grad()
        oracle.zero_grad()
        for group in (ours, theirs):
            loss = sum((p.sin() * (i + 1)).square().sum() for i, p in enumerate(group[: 3 if step % 2 else 2]))
            loss.backward()
        mine.step()
        oracle.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_training_does_not_load_torchs_compiler():
    code = """
import sys, numpy as np, anndata, scale_toolkit as scale
cells = anndata.AnnData((np.random.default_rng(0).random((40, 50)) < 0.3).astype("float32"))
scale.train(cells, max_iter=3, n_components=2, latent=3)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
