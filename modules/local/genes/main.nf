include { megabytesOf ; secondsOf } from '../task'

process GENES {
    tag "${meta.id}"
    label 'process_medium'
    memory { 2 * megabytesOf('markers', meta) * 1.MB * task.attempt }
    time { secondsOf('markers', meta) * 2.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> name == 'versions.yml' ? null : "genes/${name}" }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')
    path gtf, stageAs: 'genes/*'

    output:
    tuple val(meta), path('genes.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale genes input.h5ad ${args} --gtf '${gtf}' --n-threads ${task.cpus} -o genes.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    """
    touch genes.h5ad
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
