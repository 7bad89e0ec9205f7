// What tasks share: the memory and time they ask for, and where their results go.

// What `scale plan` says that a stage needs; before that has run, and in a stub, a small job's needs.
def needs(stage, meta) {
    return meta.needs?.get(stage) ?: [memory_mb: 1000, seconds: 60]
}

// `prepare` comes before anything is known but bytes on disk. Fitted to measured peaks of gzipped h5ad (docs/pipeline.md).
def megabytesOf(stage, meta) {
    return stage == 'prepare' ? 800 + 25 * (meta.input_mb ?: 0) : needs(stage, meta).memory_mb
}

// A bound, where the plan has an estimate: eight times as long, and half an hour more.
def secondsOf(stage, meta) {
    return 1800 + 8 * needs(stage, meta).seconds
}

// The last step that writes cells: an optional one comes after the stage that it needs.
def lastWritten(given) {
    def late = given.types ? 'annotate' : given.markers ? 'markers' : null
    if (late && given.stop_after in ['cluster', 'embed']) {
        return late
    }
    if (given.stop_after == 'train') {
        return given.doublets ? 'doublets' : given.reference ? 'map' : 'train'
    }
    return given.stop_after
}

// results/SAMPLE/adata.h5ad is what the last stage wrote; everything else goes to results/SAMPLE/STAGE/.
def published(stage, name, last, keepAll) {
    if (name == 'versions.yml') {
        return null
    }
    if (name.endsWith('.h5ad')) {
        return stage == last ? 'adata.h5ad' : keepAll ? "${stage}/${name}" : null
    }
    return "${stage}/${name}"
}
