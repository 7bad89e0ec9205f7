include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process MARKERS {
    tag "${meta.id}"
    label 'process_medium'
    memory { megabytesOf('markers', meta) * 1.MB * task.attempt }
    time { secondsOf('markers', meta) * 2.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('markers', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')
    path gtf, stageAs: 'genes/*'

    output:
    tuple val(meta), path("${prefix}.markers.h5ad"), emit: h5ad
    tuple val(meta), path('markers.tsv'), emit: table, optional: true
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    def genes = gtf ? "--gtf '${gtf}'" : ''
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale markers input.h5ad ${args} ${genes} --seed ${params.seed} --n-threads ${task.cpus} --table markers.tsv -o ${prefix}.markers.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.markers.h5ad markers.tsv
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
