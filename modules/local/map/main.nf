include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process MAP {
    tag "${meta.id}"
    label 'process_medium'
    // the reference is read like an input of `prepare`
    memory { (2 * megabytesOf('markers', meta) + megabytesOf('prepare', [input_mb: Math.ceil(reference.size() / 1e6)])) * 1.MB * task.attempt }
    time { secondsOf('train', meta) * 1.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('map', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')
    path reference, stageAs: 'reference/*'

    output:
    tuple val(meta), path("${prefix}.map.h5ad"), emit: h5ad
    tuple val(meta), path('novelty.pdf'), optional: true, emit: figure
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    // novelty is measured by cells, which a model file lacks
    def figure = reference.name ==~ /.*\.pth?/ ? '' : '--figure novelty.pdf'
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale map input.h5ad ${args} --reference '${reference}' ${figure} --seed ${params.seed} --n-threads ${task.cpus} -o ${prefix}.map.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.map.h5ad novelty.pdf
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
