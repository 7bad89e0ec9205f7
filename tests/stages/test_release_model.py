"""``--pretrain`` with a ``model.pt`` of SCALE 1.1.2, against a forward pass over its weights in NumPy."""

from __future__ import annotations

import io
import itertools
import logging
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import InputError, ScaleWarning

PEAKS, LATENT, K = 300, 4, 3


def released(*, encode=(16, 8), decode=(), norm=False, step=2, seed=0) -> OrderedDict[str, torch.Tensor]:
    """Weights as the release's ``state_dict()`` names them; `step` from one linear layer to the next (dropout adds one)."""
    rng = np.random.default_rng(seed)

    def tensor(*shape, low=-0.5, high=0.5):
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    weights["pi"] = tensor(K, low=0.2, high=0.5)
    weights["mu_c"], weights["var_c"] = tensor(LATENT, K), tensor(LATENT, K, low=0.5, high=2)

    def chain(name, widths):
        for number, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            at = number * (step + norm)
            weights[f"{name}.{at}.weight"], weights[f"{name}.{at}.bias"] = tensor(n_out, n_in), tensor(n_out)
            if norm:
                weights[f"{name}.{at + 1}.weight"], weights[f"{name}.{at + 1}.bias"] = tensor(n_out), tensor(n_out)
                weights[f"{name}.{at + 1}.running_mean"] = tensor(n_out)
                weights[f"{name}.{at + 1}.running_var"] = tensor(n_out, low=0.1, high=3)
                weights[f"{name}.{at + 1}.num_batches_tracked"] = torch.tensor(7)

    chain("encoder.hidden", (PEAKS, *encode))
    for part in ("mu", "log_var"):
        weights[f"encoder.sample.{part}.weight"] = tensor(LATENT, encode[-1])
        weights[f"encoder.sample.{part}.bias"] = tensor(LATENT)
    chain("decoder.hidden", (LATENT, *decode))
    last = (LATENT, *decode)[-1]
    weights["decoder.reconstruction.weight"], weights["decoder.reconstruction.bias"] = tensor(PEAKS, last), tensor(PEAKS)
    return weights


def saved(content, **how) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def numpy_layers(weights, name, x):
    """Every layer under `name` on `x`, ReLU after each (and its batch norm, outside training)."""
    w = {key: np.asarray(value, np.float64) for key, value in weights.items()}
    numbers = sorted({int(key.split(".")[2]) for key in w if key.startswith(f"{name}.")})
    for number in numbers:
        at = f"{name}.{number}"
        if f"{at}.running_mean" in w:
            continue
        x = x @ w[f"{at}.weight"].T + w[f"{at}.bias"]
        norm = f"{name}.{number + 1}"
        if f"{norm}.running_mean" in w:
            x = (x - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-5)
            x = x * w[f"{norm}.weight"] + w[f"{norm}.bias"]
        x = np.maximum(x, 0)
    return x


def forward(weights, x):
    """Latent means, imputed values and responsibilities of open peaks `x`, in NumPy alone."""
    w = {key: np.asarray(value, np.float64) for key, value in weights.items()}
    hidden = numpy_layers(weights, "encoder.hidden", x)
    z = hidden @ w["encoder.sample.mu.weight"].T + w["encoder.sample.mu.bias"]
    h = numpy_layers(weights, "decoder.hidden", z)
    imputed = 1 / (1 + np.exp(-(h @ w["decoder.reconstruction.weight"].T + w["decoder.reconstruction.bias"])))
    spread = z[:, :, None] - w["mu_c"]
    log = np.log(w["pi"]) - (0.5 * np.log(2 * np.pi * w["var_c"]) + spread**2 / (2 * w["var_c"])).sum(1)
    joint = np.exp(log) + 1e-10
    return z, imputed, joint / joint.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("how", "file"),
    [
        ({}, {}),
        ({"encode": (16,)}, {}),
        ({"encode": (16, 8, 8)}, {"_use_new_zipfile_serialization": False}),
        ({"decode": (6, 5)}, {}),
        ({"norm": True, "decode": (6,)}, {}),
        ({"norm": True, "step": 3}, {}),  # with dropout between, which has no weights
        ({"step": 3}, {}),
    ],
    ids=["as 1.1.2 runs", "one layer", "old file", "decoder layers", "batch norm", "batch norm and dropout", "dropout"],
)
def test_latent_means_are_the_releases_forward_pass(planted, how, file):
    weights = released(**how)
    x = (planted.X.toarray() > 0).astype(np.float64)
    z, imputed, gamma = forward(weights, x)
    encoded = scale.encode(planted.copy(), model=saved(weights, **file), peaks=list(planted.var_names))
    np.testing.assert_allclose(keys.LATENT.get(encoded), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(keys.POSTERIOR.get(encoded), gamma, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scale.imputed(encoded)[:, :], imputed, rtol=1e-4, atol=1e-5)
    mixture = keys.MIXTURE.get(encoded)
    np.testing.assert_allclose(mixture["means"], weights["mu_c"].numpy().T)
    assert scale.receipts(encoded)[-1]["notes"]["model_version"] == "SCALE 1.1.2"


def test_peaks_are_matched_by_name_and_what_is_amiss_is_told(planted, caplog):
    weights = released()
    names = list(planted.var_names)
    order = np.random.default_rng(1).permutation(PEAKS)[:250]
    here = planted[:, order].copy()
    here.var_names = [*here.var_names[:-1], "chr9:1-2"]
    x = np.zeros((planted.n_obs, PEAKS))
    x[:, order[:-1]] = planted.X.toarray()[:, order[:-1]] > 0
    caplog.set_level(logging.INFO, "scale_toolkit")
    with pytest.warns(ScaleWarning, match="51 of the model's 300 peaks are not here"):
        encoded = scale.encode(here, model=saved(weights), peaks=names)
    np.testing.assert_allclose(keys.LATENT.get(encoded), forward(weights, x)[0], rtol=1e-4, atol=1e-5)
    assert "1 of 250 peaks here are not the model's" in caplog.text
    assert np.isnan(keys.BIAS.get(encoded).iloc[-1])


def test_dead_components_are_told(planted):
    weights = released()
    weights["pi"][1] = -0.01
    with pytest.warns(ScaleWarning, match="1 of 3 components of the model have a weight or variance of 0 or less"):
        encoded = scale.encode(planted.copy(), model=saved(weights), peaks=list(planted.var_names))
    assert np.isfinite(keys.POSTERIOR.get(encoded)).all()


class Code:
    """What a pickle runs when it is read carelessly."""

    def __reduce__(self):
        return print, ("code was run",)


def without(name):
    return {key: value for key, value in released().items() if key != name}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: saved({"encoder.hidden.0.weight": Code()}), "holds code, which is not run"),
        (lambda: saved(torch.nn.Linear(2, 2)), "holds code, which is not run"),
        (lambda: pickle.dumps(Code()), "holds code, which is not run|not a torch file"),
        (lambda: saved({"a": 1}), "a torch file without scale_toolkit's model"),
        (lambda: saved(released())[:500], "not a torch file, or damaged"),
        (lambda: saved(without("pi")), "the model file lacks pi"),
        (lambda: saved(without("encoder.sample.mu.bias")), "lacks encoder.sample.mu.bias"),
        (lambda: saved(without("encoder.hidden.2.bias")), "lacks encoder.hidden.2.bias"),
        (lambda: saved(released() | {"encoder.hidden.2.weight": torch.zeros(8, 5)}), "do not fit together"),
        (lambda: saved(released() | {"mu_c": torch.full((LATENT, K), torch.nan)}), "values that are not numbers"),
    ],
)
def test_a_file_that_is_no_model_is_refused_in_one_line(planted, capsys, data, message):
    with pytest.raises(InputError, match=message) as error:
        scale.encode(planted, model=data(), peaks=list(planted.var_names))
    assert "\n" not in str(error.value)
    assert "code was run" not in capsys.readouterr().out


def test_cells_with_a_peak_twice_are_refused(planted):
    twice = planted.copy()
    twice.var_names = [twice.var_names[1], *twice.var_names[1:]]
    with pytest.raises(InputError, match=rf"peak {twice.var_names[1]} is duplicated; .*scale prepare"):
        scale.encode(twice, model=saved(released()), peaks=list(planted.var_names))


@pytest.mark.parametrize(
    ("peaks", "message"),
    [
        (None, "which does not name its 300 peaks; .*--pretrain-peaks"),
        (lambda: None, "which does not name its 300 peaks"),
        (["chr1:1-2"], "has 300 peaks, and 1 names of peaks are given"),
        (["same"] * PEAKS, "a name is duplicated"),
        ([f"x{j}" for j in range(PEAKS)], "none of the model's 300 peaks is here"),
    ],
)
def test_names_that_do_not_do(planted, peaks, message):
    with pytest.raises(InputError, match=message):
        scale.encode(planted, model=saved(released()), peaks=peaks)
