include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process SELECT_PEAKS {
    tag "${meta.id}"
    label 'process_medium'
    memory { megabytesOf('select_peaks', meta) * 1.MB * task.attempt }
    time { secondsOf('select_peaks', meta) * 1.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('select_peaks', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), path("${prefix}.select_peaks.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    """
    export OMP_NUM_THREADS=${task.cpus}
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
