// What tasks share: the memory they ask for, and where their results go.

// Megabytes of a task, fitted to measured peaks (docs/pipeline.md). `prepare` goes by the size of its input on disk, later
// stages by the open peaks of all cells, which SIZE has read; a retry doubles, then triples it.
def megabytesOf(stage, meta) {
    if (stage == 'prepare') {
        return 800 + 25 * (meta.input_mb ?: 0)
    }
    def floor = stage == 'train' ? 1300 : 1000
    return floor + (24 * meta.open / 1e6).toInteger()
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
