include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process ANNOTATE {
    tag "${meta.id}"
    label 'process_report'
    memory { megabytesOf('markers', meta) * 1.MB * task.attempt }
    time { secondsOf('markers', meta) * 2.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('annotate', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')
    path types, stageAs: 'types/*'
    path gtf, stageAs: 'genes/*'

    output:
    tuple val(meta), path("${prefix}.annotate.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    def genes = gtf ? "--gtf '${gtf}'" : ''
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale annotate input.h5ad ${args} --markers '${types}' ${genes} -o ${prefix}.annotate.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.annotate.h5ad
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
