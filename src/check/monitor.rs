//! Answers for monitoring: one line for Nagios and Icinga, and metrics for the
//! textfile collector of Prometheus.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adsum_agent::check::Answer;
use adsum_presence::diagnosis;

use super::Refused;
use super::job::limit;
use super::run::Checked;
use crate::cli::{self, Format};
use crate::exit;

/// Bytes of a line's text: what every version of Nagios shows, with the performance data behind.
const LINE: usize = 1000;

/// Exit codes of a plugin, and their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "OK",
            State::Warning => "WARNING",
            State::Critical => "CRITICAL",
            State::Unknown => "UNKNOWN",
        }
    }

    /// Of several checks the worst is shown: what is known to be broken before what is not known.
    fn rank(self) -> u8 {
        match self {
            State::Ok => 0,
            State::Warning => 1,
            State::Unknown => 2,
            State::Critical => 3,
        }
    }
}

/// `--warning` and `--critical`: latencies above them.
#[derive(Debug, Default)]
pub struct Limits {
    warning: Option<Duration>,
    critical: Option<Duration>,
}

impl Limits {
    pub fn of(args: &cli::Check) -> Result<Limits, Refused> {
        let read =
            |flag: &str, text: &Option<String>| text.as_ref().map(|text| limit(flag, text)).transpose();
        let limits = Limits {
            warning: read("--warning", &args.warning)?,
            critical: read("--critical", &args.critical)?,
        };
        if args.format != Format::Nagios && (limits.warning.is_some() || limits.critical.is_some()) {
            return Err((exit::USAGE, "--warning and --critical belong to --format nagios".to_owned()));
        }
        if let (Some(warning), Some(critical)) = (limits.warning, limits.critical)
            && warning > critical
        {
            return Err((exit::USAGE, "--warning is above --critical: it would never be seen".to_owned()));
        }
        Ok(limits)
    }

    fn judge(&self, answer: &Answer) -> State {
        let above = |limit: Option<Duration>| limit.is_some_and(|limit| answer.latency > limit);
        // What happened on this host says nothing about the pool.
        if answer.code.starts_with("generator:") {
            State::Unknown
        } else if !answer.success || above(self.critical) {
            State::Critical
        } else if above(self.warning) {
            State::Warning
        } else {
            State::Ok
        }
    }
}

/// The line for what keeps a check from being made, and its exit code.
pub fn unknown(text: &str) -> u8 {
    println!("ADSUM UNKNOWN - {}", plain(text, LINE));
    State::Unknown as u8
}

/// One line with performance data, and the exit code.
pub fn nagios(answers: &[Checked<'_>], limits: &Limits) -> (String, u8) {
    let states: Vec<State> = answers.iter().map(|one| limits.judge(&one.answer)).collect();
    let worst = states.iter().copied().max_by_key(|state| state.rank()).unwrap_or(State::Unknown);
    let mut parts = Vec::new();
    for (one, state) in answers.iter().zip(&states) {
        if answers.len() == 1 || *state != State::Ok {
            parts.push(sentence(one));
        }
    }
    let mut text = parts.join("; ");
    if answers.len() > 1 {
        let well = states.iter().filter(|state| **state == State::Ok).count();
        let rest = if text.is_empty() { text } else { format!(": {text}") };
        text = format!("{well} of {} pools are well{rest}", answers.len());
    }
    let data: Vec<String> = answers.iter().map(|one| performance(one, answers.len() > 1, limits)).collect();
    let line = format!("ADSUM {} - {} | {}\n", worst.word(), plain(&text, LINE), data.join(" "));
    (line, worst as u8)
}

fn sentence(one: &Checked<'_>) -> String {
    let (name, answer) = (&one.job.name, &one.answer);
    if answer.success {
        return format!("{name}: notified in {:.3} s", answer.latency.as_secs_f64());
    }
    let at = if answer.activity.is_empty() { String::new() } else { format!(" ({})", answer.activity) };
    format!("{name}: {}{at}: {}", answer.error, answer.diagnosis)
}

/// `'label'=value;warning;critical;min;max`, `U` where there is no value.
fn performance(one: &Checked<'_>, several: bool, limits: &Limits) -> String {
    let label = if several { format!("latency {}", one.job.name) } else { "latency".to_owned() };
    // A quote inside is doubled, and `=` may not be in it.
    let label = plain(&label, 100).replace('=', "_").replace('\'', "''");
    let quoted = if label.contains([' ', '\'']) { format!("'{label}'") } else { label };
    let answer = &one.answer;
    let value = if answer.success { format!("{:.6}s", answer.latency.as_secs_f64()) } else { "U".to_owned() };
    let limit =
        |limit: Option<Duration>| limit.map_or(String::new(), |limit| limit.as_secs_f64().to_string());
    format!(
        "{quoted}={value};{};{};0;{}",
        limit(limits.warning),
        limit(limits.critical),
        one.job.timeout.as_secs_f64()
    )
}

/// One line without what means something to Nagios: `|` begins the performance data.
fn plain(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().map(|c| match c {
            '|' => '/',
            c if c.is_control() => '?',
            c => c,
        }));
        if out.len() >= longest {
            let cut = (0..=longest).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
            out.truncate(cut);
            out.push('…');
            break;
        }
    }
    out
}

/// Metrics in the text format, for the textfile collector.
pub fn prometheus(answers: &[Checked<'_>]) -> String {
    let mut out = String::new();
    let labels = |one: &Checked<'_>| {
        format!("name=\"{}\",target=\"{}\"", escaped(&one.job.name), escaped(&one.job.target))
    };
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Checked<'_>) -> Option<(String, f64)>| {
        let mut seen = Vec::new();
        for one in answers {
            let Some((more, value)) = value(one) else { continue };
            if seen.is_empty() {
                writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge").unwrap_or_default();
            }
            let labels = labels(one) + &more;
            // The same pool given twice would be the same series twice, which nobody may expose.
            if !seen.contains(&labels) {
                writeln!(out, "{name}{{{labels}}} {value}").unwrap_or_default();
                seen.push(labels);
            }
        }
    };
    let plain = |value: f64| Some((String::new(), value));
    family("adsum_check_success", "1 if the notification came, 0 if not.", &|one| {
        plain(f64::from(u8::from(one.answer.success)))
    });
    family(
        "adsum_check_latency_seconds",
        "From the first REGISTER to the notification; absent after a failure.",
        &|one| one.answer.success.then(|| (String::new(), one.answer.latency.as_secs_f64())),
    );
    family("adsum_check_duration_seconds", "How long the whole check took, signing off included.", &|one| {
        plain(one.answer.elapsed.as_secs_f64())
    });
    family("adsum_check_last_run_timestamp_seconds", "When the check ended.", &|one| {
        plain(unix_seconds(one.at))
    });
    family("adsum_check_failure_info", "1 with what failed; absent after a success.", &|one| {
        let a = &one.answer;
        let id = diagnosis::error_code(&a.diagnosis).map_or(String::new(), |id| id.to_string());
        let more = format!(
            ",activity=\"{}\",code=\"{}\",error_code=\"{}\"",
            escaped(&a.activity),
            escaped(&a.code),
            escaped(&id)
        );
        (!a.success).then_some((more, 1.0))
    });
    out
}

/// Milliseconds are enough for the time of day.
fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1e3)
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::job::Job;
    use crate::cli::Auth;
    use adsum_presence::accounts::Row;
    use adsum_presence::population::Transport;

    fn job(name: &str) -> Job {
        Job {
            name: name.to_owned(),
            target: "pool.example.com:5061".to_owned(),
            transport: Transport::Tls,
            dialect: adsum_coordinator::scenario::Dialect::Simple,
            auth: Auth::Digest,
            tls: Default::default(),
            publisher: Row::default(),
            subscriber: Row::default(),
            timeout: Duration::from_secs(25),
            source: None,
            advertise: None,
            trace: None,
        }
    }

    fn well(ms: u64) -> Answer {
        Answer { success: true, latency: Duration::from_millis(ms), ..Answer::default() }
    }

    fn broken(code: &str) -> Answer {
        Answer {
            error: "404, Not Found".to_owned(),
            diagnosis: "ErrorCode=4005,Source=p|q,Reason=no\nuser - check it".to_owned(),
            code: code.to_owned(),
            activity: "register".to_owned(),
            ..Answer::default()
        }
    }

    fn limits() -> Limits {
        Limits { warning: Some(Duration::from_millis(500)), critical: Some(Duration::from_secs(2)) }
    }

    fn checked(job: &Job, answer: Answer) -> Checked<'_> {
        Checked { job, answer, at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250) }
    }

    #[test]
    fn one_line_says_state_and_performance() {
        let job = job("pool");
        for (answer, wanted, code) in [
            (well(12), "ADSUM OK - pool: notified in 0.012 s | latency=0.012000s;0.5;2;0;25\n", 0),
            (well(501), "ADSUM WARNING - pool: notified in 0.501 s | latency=0.501000s;0.5;2;0;25\n", 1),
            (well(2001), "ADSUM CRITICAL - pool: notified in 2.001 s | latency=2.001000s;0.5;2;0;25\n", 2),
            (
                broken("sip:404"),
                "ADSUM CRITICAL - pool: 404, Not Found (register): ErrorCode=4005,Source=p/q,Reason=no user - check it \
                 | latency=U;0.5;2;0;25\n",
                2,
            ),
        ] {
            assert_eq!(nagios(&[checked(&job, answer)], &limits()), (wanted.to_owned(), code));
        }
        let (line, code) = nagios(&[checked(&job, broken("generator:start"))], &Limits::default());
        assert!(line.starts_with("ADSUM UNKNOWN - ") && line.ends_with("| latency=U;;;0;25\n"), "{line}");
        assert_eq!(code, 3);
    }

    #[test]
    fn of_several_the_worst_counts_and_what_is_well_is_only_counted() {
        let (a, b, c) = (job("a"), job("b's"), job("c"));
        let (line, code) = nagios(
            &[checked(&a, well(1)), checked(&b, broken("sip:404")), checked(&c, broken("generator:start"))],
            &Limits::default(),
        );
        assert!(line.starts_with("ADSUM CRITICAL - 1 of 3 pools are well: b's: 404"), "{line}");
        assert!(line.contains(" | 'latency a'=0.001000s;;;0;25 'latency b''s'=U;;;0;25 "), "{line}");
        assert_eq!((code, line.lines().count()), (2, 1));
        let long = plain(&"ü|".repeat(4000), LINE);
        assert!(long.len() <= LINE + 5 && !long.contains('|'));
    }

    #[test]
    fn metrics_have_help_type_units_and_escaped_labels() {
        let (a, b) = (job("a\"\\"), job("b"));
        let text = prometheus(&[checked(&a, well(250)), checked(&b, broken("sip:404"))]);
        let wanted = r#"# HELP adsum_check_success 1 if the notification came, 0 if not.
# TYPE adsum_check_success gauge
adsum_check_success{name="a\"\\",target="pool.example.com:5061"} 1
adsum_check_success{name="b",target="pool.example.com:5061"} 0
# HELP adsum_check_latency_seconds From the first REGISTER to the notification; absent after a failure.
# TYPE adsum_check_latency_seconds gauge
adsum_check_latency_seconds{name="a\"\\",target="pool.example.com:5061"} 0.25
"#;
        assert!(text.starts_with(wanted), "{text}");
        assert!(text.contains(
            "adsum_check_last_run_timestamp_seconds{name=\"b\",target=\"pool.example.com:5061\"} 1700000000.25\n"
        ));
        assert!(text.ends_with(
            "adsum_check_failure_info{name=\"b\",target=\"pool.example.com:5061\",activity=\"register\",\
             code=\"sip:404\",error_code=\"4005\"} 1\n"
        ));
        let twice = prometheus(&[checked(&b, well(1)), checked(&b, well(2))]);
        assert_eq!(twice.matches("adsum_check_success{").count(), 1);
    }
}
