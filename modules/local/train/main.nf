include { lastWritten ; megabytesOf ; published ; secondsOf } from '../task'

process TRAIN {
    tag "${meta.id}"
    label 'process_high'
    memory { megabytesOf('train', meta) * 1.MB * task.attempt }
    time { secondsOf('train', meta) * 1.s * task.attempt }
    publishDir "${params.outdir}/${meta.id}", mode: params.publish_dir_mode, saveAs: { name -> published('train', name, lastWritten(params), params.save_intermediates) }

    input:
    tuple val(meta), path(h5ad, stageAs: 'input.h5ad')
    path pretrained, stageAs: 'pretrained/*'

    output:
    tuple val(meta), path("${prefix}.train.h5ad"), emit: h5ad
    tuple val(meta), path("model.pt"), optional: true, emit: model
    path 'versions.yml', emit: versions

    script:
    prefix = task.ext.prefix ?: "${meta.id}"
    def args = task.ext.args ?: ''
    def components = meta.k ? "--n-components ${meta.k}" : ''
    def model = pretrained ? "--pretrain ${pretrained}" : '--model model.pt'
    def nodes = pretrained ? 1 : params.train_nodes
    def devices = nodes == 1 && params.train_devices > 1 && !pretrained ? "--devices ${params.train_devices}" : ''
    // This script runs on the first of the job's machines. srun takes no notice of sbatch's --cpus-per-task since Slurm 22.05.
    // Ports differ between jobs that share a machine.
    def torchrun = [
        "srun --nodes ${nodes} --ntasks-per-node 1 --cpus-per-task ${task.cpus} torchrun --nnodes ${nodes} --nproc-per-node ${params.train_devices}",
        '--rdzv-id $SLURM_JOB_ID --rdzv-backend c10d --rdzv-endpoint $(hostname):$((20000 + SLURM_JOB_ID % 20000)) -m scale_toolkit',
    ].join(' ')
    def scale = nodes > 1 ? torchrun : 'scale'
    def device = params.use_gpu ? 'cuda' : 'cpu'
    """
    export OMP_NUM_THREADS=${task.cpus}
    ${scale} train input.h5ad ${args} ${components} --device ${device} ${devices} --seed ${params.seed} --n-threads ${task.cpus} ${model} -o ${prefix}.train.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scale_toolkit: \$(scale --version | sed 's/^scale //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.train.h5ad model.pt
    echo '"${task.process}": {scale_toolkit: stub}' > versions.yml
    """
}
