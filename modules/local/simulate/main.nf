process SIMULATE {
    tag "${meta.id}"
    label 'process_low'

    input:
    val meta

    output:
    tuple val(meta), path("${meta.id}.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    """
    scale simulate ${args} --seed ${params.seed} -o ${meta.id}.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    """
    touch ${meta.id}.h5ad
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
