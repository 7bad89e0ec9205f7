include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process EMBED {
    tag "${meta.id}"
    label 'process_medium'
    memory { megabytesOf('embed', meta) * 1.MB * task.attempt }
    time { secondsOf('embed', meta) * 1.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('embed', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), path("${prefix}.embed.h5ad"), emit: h5ad
    tuple val(meta), path("${params.embed_method}.pdf"), emit: figure
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale embed input.h5ad ${args} --seed ${params.seed} --n-threads ${task.cpus} --figure ${params.embed_method}.pdf -o ${prefix}.embed.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.embed.h5ad ${params.embed_method}.pdf
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
