// The chain of stages, each sample on its own.

include { SIMULATE } from '../modules/local/simulate/main'
include { PLAN } from '../modules/local/plan/main'
include { PREPARE } from '../modules/local/prepare/main'
include { SELECT_PEAKS } from '../modules/local/select_peaks/main'
include { TRAIN } from '../modules/local/train/main'
include { MAP } from '../modules/local/map/main'
include { DOUBLETS } from '../modules/local/doublets/main'
include { CLUSTER } from '../modules/local/cluster/main'
include { EMBED } from '../modules/local/embed/main'
include { MARKERS } from '../modules/local/markers/main'
include { ANNOTATE } from '../modules/local/annotate/main'
include { GENES } from '../modules/local/genes/main'
include { IMPUTE } from '../modules/local/impute/main'
include { REPORT } from '../modules/local/report/main'
include { MULTIQC_CONTENT } from '../modules/local/multiqc_content/main'
include { MULTIQC } from '../modules/local/multiqc/main'
include { isAsked } from '../subworkflows/local/parameters'

workflow SCALE {
    take:
    samples // [meta, [input, ...]]: meta.id, meta.k, meta.batches; no input where cells are to be simulated
    reached // a map that learns the last stage each sample got through

    main:
    versions = channel.empty()

    given = samples.branch { meta, inputs ->
        simulated: !inputs
        files: true
    }
    SIMULATE(given.simulated.map { meta, inputs -> meta })
    versions = versions.mix(SIMULATE.out.versions)
    cells = given.files.mix(SIMULATE.out.h5ad)

    if (isAsked('prepare', params.start_from, params.stop_after)) {
        PREPARE(cells, params.peaks ? file(params.peaks) : [], params.blacklist ? file(params.blacklist) : [])
        versions = versions.mix(PREPARE.out.versions)
        cells = PREPARE.out.h5ad.map { meta, h5ad -> note(reached, 'prepare', meta, h5ad) }
    }

    // From here on every task asks for what `scale plan` says, by the size of what `prepare` left.
    if (params.stop_after != 'prepare') {
        PLAN(cells)
        cells = cells.join(PLAN.out.plan).map { meta, h5ad, plan -> [meta + [needs: stagesOf(plan)], h5ad] }
    }
    // A reference takes the place of the training, on all peaks.
    if (!params.reference && isAsked('select_peaks', params.start_from, params.stop_after)) {
        SELECT_PEAKS(cells)
        versions = versions.mix(SELECT_PEAKS.out.versions)
        cells = SELECT_PEAKS.out.h5ad.map { meta, h5ad -> note(reached, 'select_peaks', meta, h5ad) }
    }
    if (params.reference) {
        MAP(cells.map { meta, h5ad -> begin(reached, 'map', meta, h5ad) }, file(params.reference))
        versions = versions.mix(MAP.out.versions)
        cells = MAP.out.h5ad
            .map { meta, h5ad -> end(reached, meta, h5ad) }
            .map { meta, h5ad -> note(reached, 'train', meta, h5ad) }
    }
    else if (isAsked('train', params.start_from, params.stop_after)) {
        cells = cells
            .map { meta, h5ad -> [meta.id, meta, h5ad] }
            .join(PLAN.out.training.map { meta, plan -> [meta.id, plan] })
            .map { id, meta, h5ad, plan -> [meta + [needs: meta.needs + stagesOf(plan).subMap(['train'])], h5ad] }
        TRAIN(cells, params.pretrain ? file(params.pretrain) : [])
        versions = versions.mix(TRAIN.out.versions)
        cells = TRAIN.out.h5ad.map { meta, h5ad -> note(reached, 'train', meta, h5ad) }
    }
    if (params.doublets) {
        DOUBLETS(cells.map { meta, h5ad -> begin(reached, 'doublets', meta, h5ad) })
        versions = versions.mix(DOUBLETS.out.versions)
        cells = DOUBLETS.out.h5ad.map { meta, h5ad -> end(reached, meta, h5ad) }
    }
    if (isAsked('cluster', params.start_from, params.stop_after)) {
        CLUSTER(cells)
        versions = versions.mix(CLUSTER.out.versions)
        cells = CLUSTER.out.h5ad.map { meta, h5ad -> note(reached, 'cluster', meta, h5ad) }
    }
    if (isAsked('embed', params.start_from, params.stop_after)) {
        EMBED(cells)
        versions = versions.mix(EMBED.out.versions)
        cells = EMBED.out.h5ad.map { meta, h5ad -> note(reached, 'embed', meta, h5ad) }
    }
    genes = params.gtf ? file(params.gtf) : []
    if (params.markers) {
        MARKERS(cells.map { meta, h5ad -> begin(reached, 'markers', meta, h5ad) }, genes)
        versions = versions.mix(MARKERS.out.versions)
        cells = MARKERS.out.h5ad.map { meta, h5ad -> end(reached, meta, h5ad) }
    }
    if (params.types) {
        ANNOTATE(cells.map { meta, h5ad -> begin(reached, 'annotate', meta, h5ad) }, file(params.types), genes)
        versions = versions.mix(ANNOTATE.out.versions)
        cells = ANNOTATE.out.h5ad.map { meta, h5ad -> end(reached, meta, h5ad) }
    }
    if (params.gene_activity) {
        GENES(cells, genes)
        versions = versions.mix(GENES.out.versions)
        GENES.out.h5ad.subscribe { meta, h5ad -> reached["${meta.id} genes".toString()] = h5ad }
    }
    if (isAsked('impute', params.start_from, params.stop_after)) {
        IMPUTE(cells)
        versions = versions.mix(IMPUTE.out.versions)
        cells = IMPUTE.out.h5ad.map { meta, h5ad -> note(reached, 'impute', meta, h5ad) }
    }

    if (!params.skip_report && params.stop_after != 'prepare') {
        REPORT(cells)
        versions = versions.mix(REPORT.out.versions)
        REPORT.out.report.subscribe { meta, page -> reached["${meta.id} report".toString()] = page }
    }

    used = versions.unique().collectFile(name: 'versions.yml', storeDir: "${params.outdir}/pipeline_info", sort: true)
    if (!params.skip_multiqc) {
        MULTIQC_CONTENT(cells)
        MULTIQC(MULTIQC_CONTENT.out.content.collect(), file("${projectDir}/assets/multiqc_config.yml"))
    }

    emit:
    cells
    versions = used
}

// The stages of a plan, as `scale plan` writes it.
def stagesOf(plan) {
    return new groovy.json.JsonSlurperClassic().parseText(plan.text).stages
}

// A sample got through a stage; the summary at the end names the last one of each.
def note(reached, stage, meta, h5ad) {
    reached[meta.id] = stage
    return [meta, h5ad]
}

// An optional step begins and ends: if it fails, the summary names it and not the stage after it.
def begin(reached, step, meta, h5ad) {
    reached["${meta.id} step".toString()] = step
    return [meta, h5ad]
}

def end(reached, meta, h5ad) {
    reached.remove("${meta.id} step".toString())
    return [meta, h5ad]
}
