import json

import anndata
import numpy as np
import pandas as pd
import pytest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.cli.app import main
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.stages.differences import CHANGED, CLOSE, DIFFERENT, NOT_REPLAYED, SAME
from scale_toolkit.stages.receipts import digest
from scale_toolkit.stages.train import FAST_REVISION
from scale_toolkit.threads import available_cores


def analysed(cells, **prepare):
    """The result of every stage but those that take long, and the counts it began with."""
    made = scale.prepare(cells.copy(), min_peaks=5, min_cells=7, **prepare)
    made = scale.select_peaks(made, n_peaks=200)
    made = scale.train(made, n_components=3, max_iter=30, n_threads=1)
    made = scale.cluster(made, method="kmeans", n_clusters=3, stability=3, n_threads=1)
    made = scale.embed(made, method="tsne", n_threads=1)
    made = scale.impute(made, numeric=True, binary=True, n_threads=1)
    return scale.markers(made, n_threads=1)


@pytest.fixture(scope="module")
def chain(plant):
    cells = plant()
    return cells, analysed(cells)


def test_a_result_is_reproduced_from_its_original_bit_for_bit(chain):
    cells, result = chain
    before = result.copy()
    verification = scale.verify(result, cells)
    assert verification.reproduced and verification.close
    assert verification.replayed == ["prepare", "select-peaks", "train", "cluster", "embed", "impute", "markers"]
    assert verification.slots["obsm['imputed']"] == (SAME, 0.0)
    assert verification.slots["uns['scale_mixture']"] == (SAME, 0.0)
    assert not verification.elsewhere
    np.testing.assert_array_equal(result.obsm["X_scale"], before.obsm["X_scale"])
    assert result.uns["scale"] == before.uns["scale"]


def test_a_receipt_from_before_depth_was_an_option_is_replayed_at_each_cells_own(chain):
    _, result = chain
    cells = scale.impute(scale.train(result[:, :].copy(), n_components=3, max_iter=30, n_threads=1), depth="own", n_threads=1)
    receipts = json.loads(cells.uns["scale"])
    del receipts[-1]["options"]["depth"]
    receipts[-1]["version"] = "0.1.0"
    cells.uns["scale"] = json.dumps(receipts)
    verification = scale.verify(cells)
    assert verification.replayed[-1] == "impute" and verification.slots["obsm['imputed']"] == (SAME, 0.0)


def test_without_the_original_the_replay_begins_where_the_counts_still_are(chain, tmp_path):
    _, result = chain
    result.write_h5ad(tmp_path / "result.h5ad")  # as a file has it
    verification = scale.verify(anndata.read_h5ad(tmp_path / "result.h5ad"))
    assert verification.reproduced
    assert verification.replayed == ["train", "cluster", "embed", "impute", "markers"]
    assert list(verification.skipped) == ["prepare", "select-peaks"]


def test_an_input_with_receipts_of_its_own_is_where_the_replay_begins(chain):
    cells, _ = chain
    prepared = scale.prepare(cells.copy(), min_peaks=5)
    result = scale.train(prepared.copy(), n_components=3, max_iter=20, n_threads=1)
    assert scale.verify(result, prepared).replayed == ["train"]
    assert scale.verify(result, prepared).reproduced


def turn_clusters(cells):
    cells.obs["kmeans"] = cells.obs["kmeans"].to_numpy()[::-1]


def add_a_column(cells):
    cells.obs["mine"] = 1


@pytest.mark.parametrize(
    ("spoil", "slot", "verdict"),
    [
        (lambda a: a.obsm["X_scale"].__setitem__((3, 0), 99.0), "obsm['X_scale']", DIFFERENT),
        (lambda a: a.obsm["X_scale"].__setitem__((3, 0), np.nan), "obsm['X_scale']", DIFFERENT),
        (lambda a: a.varm["scale_decoder"].__imul__(1.0001), "varm['scale_decoder']", CLOSE),
        (turn_clusters, "obs['kmeans']", DIFFERENT),
        (lambda a: a.obsm["binary"].data.__isub__(1), "obsm['binary']", DIFFERENT),
        (lambda a: a.uns["scale_mixture"]["means"].__iadd__(5), "uns['scale_mixture']", DIFFERENT),
        (add_a_column, "obs['mine']", NOT_REPLAYED),
    ],
)
def test_what_was_changed_afterwards_is_named(chain, spoil, slot, verdict):
    cells, result = chain
    changed = result.copy()
    spoil(changed)
    verification = scale.verify(changed, cells)
    others = {name for name, (kind, _) in verification.slots.items() if kind != SAME}
    assert verification.slots[slot][0] == verdict
    assert others == {slot}
    assert verification.reproduced is (verdict == NOT_REPLAYED)
    assert verification.close is (verdict in (CLOSE, NOT_REPLAYED))


def test_a_stage_that_was_given_something_else_is_named(chain):
    cells, result = chain
    changed = result.copy()
    receipts = json.loads(changed.uns["scale"])
    receipts[3]["input"] = "0" * 32  # as if the latent space had been changed between train and cluster
    changed.uns["scale"] = json.dumps(receipts)
    verification = scale.verify(changed, cells)
    assert verification.departs == "cluster"
    assert not verification.reproduced
    assert "`cluster` was given something else" in verification.first()


def test_versions_and_threads_that_differ_are_reported(chain):
    cells, result = chain
    changed = result.copy()
    receipts = json.loads(changed.uns["scale"])
    receipts[-1]["libraries"]["torch"] = "0.1"
    receipts[-1]["version"] = "0.0.1"
    receipts[2]["threads"] = available_cores() + 1
    receipts[2]["notes"] |= {"device": "cuda:0", "processes": 4}
    changed.uns["scale"] = json.dumps(receipts)
    verification = scale.verify(changed, cells)
    assert [line.split(",")[0] for line in verification.elsewhere] == [
        "scale_toolkit 0.0.1",
        "torch 0.1",
        f"{available_cores() + 1} threads",
        "trained by 4 processes",
        "trained on cuda:0",
    ]


def test_several_inputs_a_blacklist_and_imputed_parts(plant):
    cells = plant()
    inputs = {"one": cells[:60].copy(), "two": cells[60:].copy()}
    regions = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [20_000]})
    result = scale.prepare(inputs, min_peaks=5, blacklist=regions)
    result = scale.train(result, n_components=3, max_iter=20, n_threads=1)
    result = scale.impute(result, peaks=list(result.var_names[:5]), n_threads=1)
    assert scale.verify(result, inputs, blacklist=regions).reproduced
    with pytest.raises(InputError, match="is not what the first receipt"):
        scale.verify(result, {"two": inputs["two"], "one": inputs["one"]}, blacklist=regions)
    with pytest.raises(UsageError, match="prepare was given a blacklist"):
        scale.verify(result, inputs)


def test_metadata_of_prepare_is_added_again(plant):
    cells = plant()
    table = pd.DataFrame({"sort": pd.Categorical(["B", "T"] * 3)}, index=cells.obs_names[:6])
    with pytest.warns(scale.errors.ScaleWarning, match="are not in the metadata"):
        result = scale.prepare(cells, min_peaks=5, metadata=table)
        verification = scale.verify(result, cells, metadata=table)
    assert verification.reproduced and verification.slots["obs['sort']"] == (SAME, 0.0)
    with pytest.raises(UsageError, match="prepare was given a metadata; expected --metadata if and only if"):
        scale.verify(result, cells)
    with pytest.raises(UsageError, match="prepare was given no metadata"):
        scale.verify(scale.prepare(cells, min_peaks=5), cells, metadata=table)


def test_an_original_with_an_entry_of_another_program_is_replayed(plant):
    cells = plant()
    cells.uns["scale"] = {"max": 10}
    with pytest.warns(scale.errors.ScaleWarning, match="uns..scale.. as 'scale_original'"):
        result = scale.prepare(cells, min_peaks=5)
        assert scale.verify(result, cells).reproduced


def test_cells_listed_for_prepare_are_listed_for_verify(plant, tmp_path, capsys):
    """On the command line: the receipt's digest is that of the listed cells."""
    cells = plant()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "list.txt").write_text("\n".join(cells.obs_names[::2]) + "\n")
    (tmp_path / "table.csv").write_text("barcode,sort\n" + "".join(f"{name},B\n" for name in cells.obs_names))
    listed = f"--barcodes {tmp_path}/list.txt --metadata {tmp_path}/table.csv"

    def scale_says(words):
        with pytest.raises(SystemExit) as end:
            main(words.split())
        return end.value.code, capsys.readouterr().err

    prepared = f"prepare {tmp_path}/cells.h5ad {listed} --min-peaks 5 --min-cells 1 -o {tmp_path}/out.h5ad"
    assert scale_says(prepared)[0] == 0
    code, said = scale_says(f"verify {tmp_path}/out.h5ad -i {tmp_path}/cells.h5ad {listed}")
    assert code == 0, said
    assert "reproduced bit for bit: prepare" in said
    code, said = scale_says(f"verify {tmp_path}/out.h5ad -i {tmp_path}/cells.h5ad")
    assert code == 1 and "with the same --barcodes" in said
    code, said = scale_says(f"verify {tmp_path}/out.h5ad {listed}")
    assert code == 2 and "--barcodes without --input; expected both" in said


def test_cells_encoded_with_a_model_need_it(plant):
    kept = []
    cells = plant()
    scale.train(cells.copy(), n_components=3, max_iter=20, n_threads=1, keep_model=kept.append)
    result = scale.encode(plant(seed=1), n_threads=1, model=kept[0])
    assert scale.verify(result, plant(seed=1), model=kept[0]).reproduced
    with pytest.raises(UsageError, match="give the model of --pretrain"):
        scale.verify(result, plant(seed=1))


def test_what_cannot_be_verified_says_why(chain, plant):
    cells, result = chain
    with pytest.raises(InputError, match="has no receipts"):
        scale.verify(cells)
    other = plant(seed=5)
    with pytest.raises(InputError, match="its digest is another"):
        scale.verify(result, other)
    bare = result[:, :100].copy()
    bare.obsm.clear()
    with pytest.raises(InputError, match="none of the stages' inputs is in the file"):
        scale.verify(bare)
    strange = result.copy()
    strange.uns["scale"] = json.dumps([{"stage": "dance", "version": "9", "options": {}, "threads": 1, "libraries": {}}])
    with pytest.raises(InputError, match="there is a receipt of 'dance', version 9"):
        scale.verify(strange, cells)
    some = scale.impute(result.copy(), cells=list(result.obs_names[:50]), n_threads=1)
    with pytest.raises(InputError, match="only some cells"):
        scale.verify(some, cells)


def test_another_number_of_threads_is_close(real):
    """The stated tolerance, on real cells: figures of one and of two threads agree."""
    cells = scale.prepare(real("leukemia"), min_peaks=100)
    one, two = (
        scale.cluster(scale.train(cells.copy(), n_components=6, n_threads=n), method="kmeans", n_clusters=6, n_threads=n)
        for n in (1, 2)
    )
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(one.obs["kmeans"], two.obs["kmeans"]) > 0.9
    assert keys.LATENT.get(one).shape == keys.LATENT.get(two).shape
    correlations = [np.corrcoef(one.obsm["X_scale"][:, d], two.obsm["X_scale"][:, d])[0, 1] for d in range(one.obsm["X_scale"].shape[1])]
    assert min(correlations) > 0.99


def test_every_stage_can_be_verified():
    """Each function with receipts is known to `verify`."""
    import ast
    from pathlib import Path

    from scale_toolkit.stages.verify import STAGES

    named = set()
    for path in Path(scale.__file__).parent.glob("stages/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "stage":
                named.add(node.args[0].value)
    assert named == set(STAGES)


def test_a_stage_is_judged_by_itself_if_what_came_before_is_different(chain):
    """As for a file of an older version whose training was another: clusters are still verified."""
    cells, result = chain
    changed = result.copy()
    changed.obsm["X_scale"] = changed.obsm["X_scale"] + np.float32(1)
    changed = scale.cluster(changed, method="kmeans", n_clusters=3, n_threads=1)
    verification = scale.verify(changed, cells)
    assert verification.restarted == ["cluster"] and verification.departs is None
    assert verification.slots["obsm['X_scale']"][0] == DIFFERENT
    assert verification.slots["obs['kmeans']"] == (SAME, 0.0)
    assert not verification.reproduced
    assert "cluster replayed from the file's own arrays" in verification.first()


def test_a_stage_whose_algorithm_has_changed_is_not_called_different(chain):
    """A file whose default training was another: said as such; later stages are verified."""
    _, result = chain
    older = result.copy()
    receipts = json.loads(older.uns["scale"])
    assert receipts[2]["stage"] == "train" and receipts[2]["revision"] == FAST_REVISION
    del receipts[2]["revision"]
    receipts[2]["version"] = "0.0.9"
    older.obsm["X_scale"] = older.obsm["X_scale"] + np.float32(1)  # what that version computed
    older.uns["scale"] = json.dumps(receipts[:3])
    older = scale.cluster(older, method="kmeans", n_clusters=3, stability=3, n_threads=1)
    verification = scale.verify(older)
    assert verification.changed == {"train": "0.0.9"} and verification.replayed == ["cluster"]
    assert verification.slots["obsm['X_scale']"][0] == CHANGED
    assert verification.slots["obs['kmeans']"] == (SAME, 0.0)
    assert not verification.reproduced and not verification.close
    older.obs["kmeans"] = older.obs["kmeans"].to_numpy()[::-1]
    assert scale.verify(older).differs


def test_the_published_presets_have_not_changed(plant):
    cells = scale.train(plant(), preset="paper", n_components=3, max_iter=20, n_threads=1)
    assert "revision" not in json.loads(cells.uns["scale"])[-1]
    assert scale.verify(cells).reproduced


def test_receipts_of_the_earlier_form_are_replayed(plant):
    """Without `reads`, a digest covers what it covered then; the verdict says so."""
    cells = plant()
    prepared = scale.prepare(cells.copy(), min_peaks=5, min_cells=7)
    result = scale.select_peaks(prepared.copy(), n_peaks=200)
    old = json.loads(result.uns["scale"])
    for receipt, given in zip(old, (cells, prepared), strict=True):
        del receipt["reads"]
        receipt["input"] = digest(given, (keys.X,))
    result.uns["scale"] = json.dumps(old)
    verification = scale.verify(result, cells)
    assert verification.reproduced and verification.replayed == ["prepare", "select-peaks"]
    assert verification.elsewhere[0].startswith("an earlier form of receipts")
