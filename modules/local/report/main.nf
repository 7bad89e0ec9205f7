include { megabytesOf ; published ; secondsOf } from '../task'

process REPORT {
    tag "${meta.id}"
    label 'process_report' // one core; memory and time are its own, which a label's would replace
    memory { megabytesOf('report', meta) * 1.MB * task.attempt }
    time { secondsOf('report', meta) * 1.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('report', name, params.stop_after, params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), path('report.html'), emit: report
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale report input.h5ad ${args} --title '${meta.id}' -o report.html

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    """
    touch report.html
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
