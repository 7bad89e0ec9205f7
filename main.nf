#!/usr/bin/env nextflow
// SCALE for single-cell ATAC-seq, a stage a process:
//   nextflow run main.nf -with-docker                                  simulated cells through every stage
//   nextflow run main.nf --input cells.h5ad --k 6 -with-docker         a matrix
//   nextflow run main.nf --input samplesheet.csv --merge -with-docker  many samples, one by one and together
// Every parameter: --help; docs/pipeline.md.

include { SCALE } from './workflows/scale'
include { checkParameters ; helpText ; checkImage ; samplesOf ; summary } from './subworkflows/local/parameters'

workflow {
    main:
    checkParameters(params, workflow)
    if (params.help) {
        println(helpText(workflow))
    }
    else {
        checkImage(workflow)
        samples = samplesOf(params)
        // Inside onComplete neither `params` nor `workflow` is what it is here.
        given = params
        isDry = workflow.stubRun || workflow.preview
        reached = new java.util.concurrent.ConcurrentHashMap()
        SCALE(channel.fromList(samples), reached)

        workflow.onComplete {
            summary(samples, reached, given, isDry)
        }
    }
}
