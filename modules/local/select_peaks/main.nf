process SELECT_PEAKS {
    tag "${meta.id}"
    label 'process_medium'

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), path("${prefix}.select_peaks.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    """
    scale select-peaks input.h5ad ${args} -o ${prefix}.select_peaks.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.select_peaks.h5ad
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
