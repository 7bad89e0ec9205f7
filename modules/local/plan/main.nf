// What the later stages need, by the size of what `prepare` left: memory, time and disk of each, as JSON. The training, whose
// needs depend on its options, has a file of its own: with another preset no stage before it runs again.
process PLAN {
    tag "${meta.id}"
    label 'process_low'

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')

    output:
    tuple val(meta), path('plan.json'), emit: plan
    tuple val(meta), path('training.json'), emit: training

    script:
    """
    scale plan input.h5ad --quiet -o plan.json
    scale plan input.h5ad --preset ${params.train_preset} --max-iter ${params.train_max_iter} --quiet -o training.json
    """

    stub:
    """
    echo '{"stages": {}}' | tee plan.json > training.json
    """
}
