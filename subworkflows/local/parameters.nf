// Parameters: the schema is the single truth, checked at the start with no plugin, which a machine off the net could not load.

def STAGES() {
    return ['prepare', 'select_peaks', 'train', 'cluster', 'embed', 'impute']
}

// Whether a stage is between the first and the last one asked for.
def isAsked(stage, first, last) {
    return STAGES().indexOf(stage) in (STAGES().indexOf(first)..STAGES().indexOf(last))
}

def groups() {
    return new groovy.json.JsonSlurper().parse(file("${projectDir}/nextflow_schema.json").toFile())['$defs']
}

def properties() {
    return groups().values().collectEntries { group -> group.properties }
}

// Stop with every parameter that is unknown, of another type, out of range or in contradiction.
def checkParameters(given, run) {
    def known = properties()
    def wrong = []
    given.each { name, value ->
        if (!known.containsKey(name)) {
            // Nextflow keeps --some-name as some-name and as someName
            def typed = name.contains('-') || !given.keySet().any { other -> other.contains('-') && camelCase(other) == name }
            if (typed) {
                wrong << "--${name} is unknown${nearest(name, known.keySet())}"
            }
        }
        else if (value != null) {
            def problem = problemOf(value, known[name])
            if (problem) {
                wrong << "--${name} is ${value}; expected ${problem}"
            }
        }
    }
    if (!wrong) {
        wrong += contradictions(given, run.profile.tokenize(','), run.containerEngine)
    }
    if (wrong) {
        error("${wrong.join('\n')}\n`nextflow run main.nf --help` lists the parameters")
    }
}

def camelCase(name) {
    return name.split('-').toList().withIndex().collect { word, place -> place ? word.capitalize() : word }.join('')
}

def nearest(name, known) {
    def plain = name.replace('-', '_').toLowerCase()
    def best = known.min { other -> distance(plain, other) }
    return distance(plain, best) <= 3 ? "; did you mean --${best}?" : ''
}

// Letters to change, add or drop between two names (Levenshtein).
def distance(one, other) {
    def row = (0..other.size()).toList()
    one.toList().withIndex().each { letter, i ->
        def next = [i + 1]
        other.toList().withIndex().each { with, j ->
            next << [next[j] + 1, row[j + 1] + 1, row[j] + (letter == with ? 0 : 1)].min()
        }
        row = next
    }
    return row.last()
}

// What was expected of a value, or null where it is good.
def problemOf(value, rule) {
    def isNumber = value instanceof Number
    if (rule.type == 'boolean' && !(value instanceof Boolean)) {
        return 'true or false'
    }
    if (rule.type == 'integer' && !(value instanceof Integer || value instanceof Long || value instanceof BigInteger)) {
        return 'an integer'
    }
    if (rule.type == 'number' && !isNumber) {
        return 'a number'
    }
    if (rule.type == 'string' && value instanceof Boolean) {
        return 'a value'
    }
    if (rule['enum'] && !(value.toString() in rule['enum'])) {
        return "one of ${rule['enum'].join(', ')}"
    }
    if (rule.minimum != null && value < rule.minimum) {
        return "${rule.minimum} or more"
    }
    if (rule.maximum != null && value > rule.maximum) {
        return "${rule.maximum} or less"
    }
    if (rule.pattern && !(value.toString() ==~ rule.pattern)) {
        return "a text like ${rule.pattern}"
    }
    if (rule.exists && !file(value.toString()).exists()) {
        return 'a file that is there'
    }
    return null
}

def contradictions(given, profiles, engine) {
    def wrong = []
    if (STAGES().indexOf(given.start_from) > STAGES().indexOf(given.stop_after)) {
        wrong << "--start_from is ${given.start_from} and --stop_after ${given.stop_after}; expected a stage at or after the first"
    }
    if (given.start_from != 'prepare' && !given.input) {
        wrong << "--start_from is ${given.start_from}, --input is not given; expected the h5ad of the stage before it"
    }
    if (given.merge && (given.start_from != 'prepare' || !given.input)) {
        wrong << '--merge is true; expected a samplesheet as --input, and prepare as the first stage'
    }
    if (given.gene_activity && !given.gtf) {
        wrong << '--gene_activity is true, --gtf is not given; expected both'
    }
    if (given.doublets && !isAsked('train', given.start_from, given.stop_after)) {
        wrong << '--doublets is true; expected a run with the stage train'
    }
    if (given.reference && given.pretrain) {
        wrong << '--reference and --pretrain are given; expected one of them'
    }
    if (given.reference && !isAsked('train', given.start_from, given.stop_after)) {
        wrong << "--reference is ${given.reference}; expected a run with the stage train, which map takes the place of"
    }
    if (given.train_nodes > 1 && (!('slurm' in profiles) || engine)) {
        wrong << "--train_nodes is ${given.train_nodes}${engine ? " in ${engine}" : ''}; expected -profile slurm without a container, where srun can be called"
    }
    if (given.gene_activity && given.stop_after in ['prepare', 'select_peaks']) {
        wrong << "--gene_activity is true and --stop_after ${given.stop_after}; expected train or later"
    }
    ['markers', 'types'].findAll { name -> given[name] && given.stop_after in ['prepare', 'select_peaks', 'train'] }.each { name ->
        wrong << "--${name} is ${given[name]} and --stop_after ${given.stop_after}; expected cluster or later"
    }
    if (given.input && !file(given.input.toString()).exists()) {
        wrong << "--input is ${given.input}; expected a file or a folder that is there"
    }
    def needed = [
        awsbatch: ['queue', 'aws_region'],
        'google-batch': ['google_project', 'google_location'],
        azurebatch: ['queue', 'azure_location', 'azure_batch_account', 'azure_storage_account'],
        k8s: ['k8s_claim'],
    ]
    needed.each { profile, names ->
        names.findAll { name -> profile in profiles && !given[name] }.each { name ->
            wrong << "--${name} is not given; expected with -profile ${profile}"
        }
    }
    if ('google-batch' in profiles && given.use_gpu && !given.gpu_type) {
        wrong << '--gpu_type is not given; expected with -profile google-batch and --use_gpu'
    }
    return wrong
}

// -with-docker with an image that is not there: say how to build it instead of trying to pull it. An image with a registry's
// name in front is pulled by the engine.
def checkImage(run) {
    def engine = run.containerEngine
    def images = run.container instanceof Map ? run.container.values().unique() : [run.container]
    if (engine in ['singularity', 'apptainer']) {
        images.findAll { image -> image?.startsWith('/') && !file(image).exists() }.each { image ->
            error("the image ${image} is not there; build it: apptainer build ${image} ${projectDir}/containers/apptainer.def")
        }
    }
    if (!(engine in ['docker', 'podman']) || !(run.session.config.process?.executor in [null, 'local', 'slurm'])) {
        return
    }
    images.findAll { image -> image && !image.contains('/') }.each { image ->
        def answer = null
        try {
            answer = [engine, 'image', 'inspect', image].execute()
            answer.waitForProcessOutput(new StringBuilder(), new StringBuilder())
        }
        catch (IOException ignored) {
            answer = null // no engine on this machine: the nodes may have one
        }
        if (answer != null && answer.exitValue() != 0) {
            error("the image ${image} is not there (or ${engine} does not answer); build it: ${engine} build -t ${image} ${projectDir}")
        }
    }
}

// What is analysed: [meta, [input, ...]] for each sample.
def samplesOf(given) {
    if (!given.input) {
        return [[[id: 'demo', k: given.k ?: given.demo_clusters, reference: 'cell_type'], []]]
    }
    def input = file(given.input.toString())
    def rows = isSheet(input) ? rowsOf(input) : [[sample: plainName(input), path: input]]
    def samples = rows.groupBy { row -> row.sample }.collect { sample, parts ->
        sampleOf(sample, parts, parts.find { part -> part.k }?.k ?: given.k)
    }
    if (given.merge && rows.collect { row -> row.sample }.unique().size() > 1) {
        samples << sampleOf('merged', rows.collect { row -> row + [batch: row.batch ?: row.sample] }, given.k)
    }
    if (given.peaks || given.start_from != 'prepare') {
        samples.findAll { meta, paths -> paths.size() > 1 }.each { meta, paths ->
            error("${given.peaks ? '--peaks is given' : "--start_from is ${given.start_from}"}, and sample ${meta.id} has ${paths.size()} inputs; expected one")
        }
    }
    return samples
}

def sampleOf(sample, rows, k) {
    def meta = [id: sample, input_mb: rows.sum { row -> megabytes(row.path) }]
    if (k) {
        meta.k = k
    }
    if (rows.size() > 1 || rows[0].batch) {
        def batches = rows.collect { row -> row.batch ?: plainName(row.path) }
        def names = batches.unique(false).size() == batches.size() ? batches : rows.withIndex().collect { row, i -> "${row.sample}_${batches[i]}" }
        def twice = names.countBy { name -> name }.find { name, count -> count > 1 }
        if (twice) {
            error("--input: two rows of ${sample} are named ${twice.key}; expected a batch of its own for each")
        }
        meta.batches = names
    }
    return [meta, rows.collect { row -> row.path }]
}

// For the memory `prepare` asks for; a folder counts with all its files.
def megabytes(path) {
    def size = path.isDirectory() ? path.listFiles().findAll { one -> one.isFile() }.sum { one -> one.size() } ?: 0 : path.size()
    return Math.ceil(size / 1e6).toInteger()
}

def isSheet(input) {
    if (input.isDirectory() || !(input.name ==~ /(?i).*\.csv$/)) {
        return false
    }
    def columns = headerOf(input)
    return 'sample' in columns && 'path' in columns
}

def headerOf(input) {
    def first = input.withReader { reader -> reader.readLine() } ?: ''
    return first.replace('\uFEFF', '').split(',').collect { name -> unquoted(name) }
}

def unquoted(text) {
    return text.trim().replaceAll(/^"(.*)"$/, '$1').trim()
}

def rowsOf(sheet) {
    def wrong = []
    def columns = headerOf(sheet)
    (columns - ['sample', 'path', 'batch', 'k']).each { name -> wrong << "column '${name}' is unknown; expected sample, path, batch, k" }
    def rows = []
    def lines = sheet.readLines().drop(1).withIndex().findAll { line, i -> line.trim() }
    lines.each { line, i ->
        def cells = line.split(',', -1).collect { cell -> unquoted(cell) }
        def row = [columns, cells].transpose().collectEntries()
        def at = "line ${i + 2}"
        if (cells.size() != columns.size()) {
            wrong << "${at} has ${cells.size()} values; expected ${columns.size()}"
        }
        else if (!(row.sample ==~ /[A-Za-z0-9][A-Za-z0-9_.-]*/)) {
            wrong << "${at}: sample is '${row.sample}'; expected letters, digits, _ . -"
        }
        else if (row.batch && !(row.batch ==~ /[A-Za-z0-9][A-Za-z0-9_. -]*/)) {
            wrong << "${at}: batch is '${row.batch}'; expected letters, digits, _ . - and blanks"
        }
        else if (row.k && !(row.k ==~ /[1-9][0-9]*/)) {
            wrong << "${at}: k is '${row.k}'; expected an integer, 1 or more"
        }
        else if (!row.path || !placeOf(row.path, sheet).exists()) {
            wrong << "${at}: path is '${row.path}'; expected a file or a folder that is there"
        }
        else {
            rows << [sample: row.sample, path: placeOf(row.path, sheet), batch: row.batch ?: null, k: row.k ? row.k.toInteger() : null]
        }
    }
    rows.groupBy { row -> row.sample }.each { sample, parts ->
        if (parts.collect { part -> part.k }.findAll { k -> k }.unique().size() > 1) {
            wrong << "sample ${sample} has several k; expected one"
        }
        if (sample in ['merged', 'pipeline_info', 'multiqc']) {
            wrong << "a sample is named ${sample}; expected another name, that folder is the pipeline's own"
        }
    }
    if (!wrong && !rows) {
        wrong << 'no rows; expected a line for each input'
    }
    if (wrong) {
        error("${wrong.collect { text -> "--input ${sheet}: ${text}" }.join('\n')}")
    }
    return rows
}

// A path of a samplesheet: relative ones start at the sheet's own folder.
def placeOf(path, sheet) {
    return path.startsWith('/') || path ==~ /[a-z0-9]+:\/\/.*/ ? file(path) : file("${sheet.parent.toUriString()}/${path}")
}

// A file's name without its format suffixes, as letters that suit a folder's name.
def plainName(path) {
    return path.name.replaceAll(/(?i)(?<=.)(\.(gz|h5ad|h5mu|zarr|h5|txt|tsv|csv|mtx|fragments))+$/, '').replaceAll(/[^A-Za-z0-9_.-]/, '_')
}

def helpText(run) {
    def lines = ["${run.manifest.name} ${run.manifest.version}: ${run.manifest.description}", '', 'nextflow run main.nf [--input FILE] [--k INT] ... -with-docker', '']
    groups().values().each { group ->
        lines << "${group.title}: ${group.description}"
        group.properties.findAll { name, rule -> !rule.hidden }.each { name, rule ->
            def kind = rule['enum'] ? rule['enum'].join('|') : rule.type
            def low = rule.minimum != null ? " from ${rule.minimum}" : ''
            def high = rule.maximum != null ? " to ${rule.maximum}" : ''
            def otherwise = rule.default != null ? " [default: ${rule.default}]" : ''
            lines << "  --${name} (${kind}${low}${high})".padRight(44) + " ${rule.description}${otherwise}"
        }
        lines << ''
    }
    return lines.join('\n')
}

// What every sample came to; a sample that failed is named with the stage and where its messages are.
def summary(samples, reached, given, isDry) {
    if (isDry) {
        return
    }
    def wanted = !given.skip_report && given.stop_after != 'prepare'
    def names = samples.collect { meta, paths -> meta.id }
    def missed = names.collectEntries { name ->
        def step = reached["${name} step".toString()]
        def side = wanted && !reached["${name} report".toString()] ? 'report' : given.gene_activity && !reached["${name} genes".toString()] ? 'genes' : null
        def next = reached[name] != given.stop_after ? nextStage(reached[name], given.start_from) : side
        def stage = step ?: next
        [name, stage]
    }
    def failed = names.findAll { name -> missed[name] }
    def lines = names.collect { name -> missed[name] ? "${name}\tfailed\t${missed[name]}" : "${name}\tdone\t${given.stop_after}" }
    def table = file("${given.outdir}/pipeline_info/samples.tsv")
    table.parent.mkdirs()
    table.text = (['sample\toutcome\tstage'] + lines).join('\n') + '\n'
    if (failed) {
        log.error("${failed.size()} of ${names.size()} samples failed: ${failed.collect { name -> "${name} at ${missed[name]}" }.join(', ')}; see ${table} and .command.err in the work folders that pipeline_info/trace_*.txt names")
    }
    else {
        log.info("${names.size()} samples done: ${given.outdir}/SAMPLE/adata.h5ad")
    }
}

def nextStage(stage, first) {
    return stage ? STAGES()[STAGES().indexOf(stage) + 1] : first
}
