// How large the data are, so that the later stages ask for what they need: cells, peaks and open peaks.
process SIZE {
    tag "${meta.id}"
    label 'process_low'

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), env('SIZE'), emit: size

    script:
    """
    SIZE=\$(h5ad_size.py input.h5ad)
    """

    stub:
    """
    SIZE='1000 8000 500000'
    """
}
