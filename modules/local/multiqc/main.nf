process MULTIQC {
    label 'process_low'
    publishDir "${params.outdir}/multiqc", mode: params.publish_dir_mode, pattern: 'multiqc_report.html'

    input:
    path content
    path configuration, stageAs: 'multiqc_config.yml'

    output:
    path 'multiqc_report.html', optional: true, emit: report
    path 'versions.yml', optional: true, emit: versions

    script:
    """
    if command -v multiqc > /dev/null; then
        multiqc --force --strict --no-ansi --config multiqc_config.yml --filename multiqc_report.html .
        echo '"${task.process}": {multiqc: '"\$(multiqc --version | sed 's/.*version //')"'}' > versions.yml
    else
        echo 'multiqc was not found, so the page is missing; the image has it, or: pip install multiqc' >&2
    fi
    """

    stub:
    """
    touch multiqc_report.html versions.yml
    """
}
