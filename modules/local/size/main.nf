// How large the data are, so that the later stages ask for what they need: cells, peaks and open peaks.
process SIZE {
    tag "${meta.id}"
    label 'process_low'

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), stdout, emit: size

    script:
    """
    h5ad_size.py input.h5ad
    """

    stub:
    """
    printf '1000 8000 500000'
    """
}
