include { lastWritten ; megabytesOf ; published } from '../task'

process PREPARE {
    tag "${meta.id}"
    label 'process_prepare'
    memory { megabytesOf('prepare', meta) * 1.MB * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('prepare', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(inputs, stageAs: 'input_?/*')
    path peaks, stageAs: 'peaks/*'
    path blacklist, stageAs: 'blacklist/*'

    output:
    tuple val(meta), path("${prefix}.prepare.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    def names = meta.batches ? "--batch-names '${meta.batches.join(',')}'" : ''
    def regions = blacklist ? "--blacklist ${blacklist}" : ''
    def source = peaks ? "--fragments ${inputs} --peaks ${peaks}" : "${inputs}"
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale prepare ${source} ${names} ${regions} ${args} -o ${prefix}.prepare.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.prepare.h5ad
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
