include { published } from '../task'

process SIMULATE {
    tag "${meta.id}"
    label 'process_low'
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('simulate', name, params.stop_after, params.save_intermediates) }

    input:
    val meta

    output:
    tuple val(meta), path("${meta.id}.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    """
    export OMP_NUM_THREADS=${task.cpus}
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
