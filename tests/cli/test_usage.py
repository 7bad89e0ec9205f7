"""Options that do not go together are refused before any work."""

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prepare counts.h5ad --gtf genes.gtf -o out.h5ad", "--gtf without --fragments"),
        (
            "run --fragments f.tsv --peaks p.bed --dry-run -o folder",
            "--dry-run with --fragments",
        ),
    ],
)
def test_options_that_do_not_go_together(scale, tmp_path, words, message):
    for name in ("counts.h5ad", "genes.gtf", "f.tsv", "p.bed"):
        (tmp_path / name).write_text("chr1\t1\t2\tcell\t1\n")
    code, said = scale(words)
    assert code == 2
    assert message in said
