// Parse scripts and configurations as `nextflow lint` does; print each error, and end with 1 where there is one.
import nextflow.config.control.ConfigParser
import nextflow.script.control.ScriptParser

def scripts = new ScriptParser()
def configs = new ConfigParser()
def sources = args.collect { name -> name.endsWith('.config') ? configs.parse(new File(name)) : scripts.parse(new File(name)) }
scripts.analyze()
configs.analyze()
def errors = sources.collectMany { source -> (source.errorCollector.errors ?: []).collect { error -> "${source.name}: ${error.cause?.message ?: error}" } }
errors.each { line -> println(line) }
println("${errors.size()} errors in ${sources.size()} files")
System.exit(errors ? 1 : 0)
