// A sample's figures for the MultiQC page.
process MULTIQC_CONTENT {
    tag "${meta.id}"
    label 'process_low'

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    path "${meta.id}.*", emit: content

    script:
    """
    multiqc_content.py input.h5ad ${meta.id}
    """

    stub:
    """
    touch ${meta.id}.scale_mqc.json
    """
}
