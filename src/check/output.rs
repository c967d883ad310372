//! Answers as text with the cmdlet's fields, as JSON and as CSV.

use adsum_agent::check::Answer;
use adsum_presence::diagnosis;

use super::run::Checked;

/// `hh:mm:ss.fffffff`; zero on failure.
fn time_span(answer: &Answer) -> String {
    if !answer.success {
        return "00:00:00".to_owned();
    }
    let ticks = answer.latency.as_nanos() / 100;
    let seconds = ticks / 10_000_000;
    format!("{:02}:{:02}:{:02}.{:07}", seconds / 3600, seconds / 60 % 60, seconds % 60, ticks % 10_000_000)
}

fn result(answer: &Answer) -> &'static str {
    if answer.success { "Success" } else { "Failure" }
}

pub fn text(one: &Checked<'_>) -> String {
    let answer = &one.answer;
    format!(
        "TargetFqdn : {}\nResult     : {}\nLatency    : {}\nError      : {}\nDiagnosis  : {}\n",
        one.job.target,
        result(answer),
        time_span(answer),
        answer.error,
        answer.diagnosis
    )
}

pub fn json(answers: &[Checked<'_>]) -> String {
    let checks: Vec<_> = answers
        .iter()
        .map(|Checked { job, answer: a, .. }| {
            serde_json::json!({
                "name": job.name, "target_fqdn": job.target, "result": result(a), "latency": time_span(a),
                "latency_seconds": a.success.then_some(a.latency.as_secs_f64()),
                "elapsed_seconds": a.elapsed.as_secs_f64(),
                "error": a.error, "diagnosis": a.diagnosis, "error_code": diagnosis::error_code(&a.diagnosis),
                "code": a.code, "class": a.class, "activity": a.activity, "account": a.account,
                "server": a.server, "warnings": a.warnings,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::json!({ "schema_version": 1, "checks": checks }))
}

pub fn csv(answers: &[Checked<'_>]) -> String {
    let header = [
        "schema_version",
        "target_fqdn",
        "result",
        "latency_s",
        "error",
        "diagnosis",
        "code",
        "activity",
        "error_code",
        "account",
        "name",
        "class",
    ];
    let rows = answers.iter().map(|Checked { job, answer: a, .. }| {
        vec![
            "1".to_owned(),
            job.target.clone(),
            result(a).to_owned(),
            if a.success { format!("{:.6}", a.latency.as_secs_f64()) } else { String::new() },
            a.error.clone(),
            a.diagnosis.clone(),
            a.code.clone(),
            a.activity.clone(),
            diagnosis::error_code(&a.diagnosis).map_or(String::new(), |id| id.to_string()),
            a.account.clone(),
            job.name.clone(),
            a.class.to_owned(),
        ]
    });
    String::from_utf8_lossy(&adsum_report::files::csv_bytes(&header, rows)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_latency_reads_like_the_cmdlets() {
        let latency = Duration::from_nanos(6_328_031_500);
        let answer = Answer { success: true, latency, ..Answer::default() };
        assert_eq!(time_span(&answer), "00:00:06.3280315");
        assert_eq!(time_span(&Answer { success: false, ..answer }), "00:00:00");
    }
}
