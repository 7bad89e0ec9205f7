include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process CLUSTER {
    tag "${meta.id}"
    label 'process_medium'
    memory { megabytesOf('cluster', meta) * 1.MB * task.attempt }
    time { secondsOf('cluster', meta) * (1 + params.cluster_stability) * 1.s * task.attempt } // a subsample takes less than all
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('cluster', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), path("${prefix}.cluster.h5ad"), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    def clusters = meta.k && params.cluster_n_clusters == null ? "--n-clusters ${meta.k}" : ''
    def reference = meta.reference && params.cluster_reference == null ? "--reference '${meta.reference}'" : ''
    """
    export OMP_NUM_THREADS=${task.cpus}
    scale cluster input.h5ad ${args} ${clusters} ${reference} --seed ${params.seed} --n-threads ${task.cpus} -o ${prefix}.cluster.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.cluster.h5ad
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
