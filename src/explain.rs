//! `adsum explain`: what a word or number of ours, of SIP or of Lync means,
//! who has to act, and what to do. The texts lie beside what they explain.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use adsum_coordinator::scenario::names::nearest;
use adsum_presence::diagnosis::{class_of, codes, known};
use adsum_presence::host::Class;
use adsum_report::explain as words;

use crate::exit;

/// Suggestions for a word that nobody knows.
const SUGGESTIONS: usize = 3;

/// One meaning of a word.
struct Meaning {
    word: String,
    kind: &'static str,
    text: String,
    acts: Option<Class>,
    advice: Vec<&'static str>,
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.word, self.kind, self.text)?;
        if let Some(class) = self.acts {
            write!(f, "\n  who has to act: {}", who(class))?;
        }
        for advice in &self.advice {
            write!(f, "\n  what to do: {advice}")?;
        }
        Ok(())
    }
}

fn who(class: Class) -> &'static str {
    match class {
        Class::Pool => "whoever runs the pool (pool)",
        Class::Configuration => "whoever set up accounts and test (configuration)",
        Class::Generator => "whoever runs adsum and its host (generator)",
        Class::Network => "whoever runs the network between (network)",
    }
}

pub fn explain(word: Option<&str>) -> u8 {
    let Some(word) = word else {
        print!("{}", list());
        return 0;
    };
    let found = meanings(word);
    if found.is_empty() {
        eprintln!("adsum: {}", unknown(word));
        return exit::USAGE;
    }
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    println!("{}", texts.join("\n\n"));
    0
}

/// Everything that a word can mean; a number may mean several things.
fn meanings(word: &str) -> Vec<Meaning> {
    let word = word.trim().to_ascii_lowercase();
    // As the cmdlet's Diagnosis and the header itself write it.
    for prefix in
        ["errorcode=", "errorid=", "ms-diagnostics:", "ms-diagnostics-public:", "ms-client-diagnostics:"]
    {
        if let Some(rest) = word.strip_prefix(prefix) {
            let digits = rest.trim().split([',', ';']).next().unwrap_or("");
            return digits.parse().ok().and_then(diagnostic).into_iter().collect();
        }
    }
    // As the cmdlet's Error writes it: `404, Not Found`.
    if let Some((code, _)) = word.split_once([',', ' ']) {
        return code.parse().ok().and_then(status).into_iter().collect();
    }
    if let Some(code) = word.strip_prefix("sip:") {
        return code.parse().ok().and_then(status).into_iter().collect();
    }
    let mut found: Vec<Meaning> = words::explain(&word).into_iter().map(entry).collect();
    found.extend(codes::failure(&word).map(failure));
    if let Ok(number) = word.parse::<u32>() {
        found.extend(u16::try_from(number).ok().and_then(status));
        // Below 1000 a number alone is hardly an ErrorId.
        found.extend((number >= 1000).then(|| diagnostic(number)).flatten());
    }
    if found.is_empty() {
        // `publish_to_notify.p99`, as thresholds write it.
        let name = word.split('.').next().unwrap_or("");
        found.extend(words::explain(name).into_iter().map(entry));
    }
    found
}

fn entry(entry: &'static words::Entry) -> Meaning {
    let acts = entry.acts.map(|class| match class {
        adsum_report::names::Class::Pool => Class::Pool,
        adsum_report::names::Class::Configuration => Class::Configuration,
        adsum_report::names::Class::Generator => Class::Generator,
        adsum_report::names::Class::Network => Class::Network,
    });
    let advice = Some(entry.advice).filter(|advice| !advice.is_empty());
    Meaning {
        word: entry.word.to_owned(),
        kind: entry.kind,
        text: entry.text.to_owned(),
        acts,
        advice: advice.into_iter().collect(),
    }
}

fn failure(row: &'static codes::FailureCode) -> Meaning {
    Meaning {
        word: row.code.to_owned(),
        kind: "failure",
        text: row.meaning.to_owned(),
        acts: Some(row.class),
        advice: vec![row.advice],
    }
}

fn status(code: u16) -> Option<Meaning> {
    if !(100..700).contains(&code) {
        return None;
    }
    let mut meaning = Meaning {
        word: format!("sip:{code}"),
        kind: "SIP response",
        text: format!("{code} {}.", codes::phrase(code)),
        acts: None,
        advice: Vec::new(),
    };
    match code {
        401 | 407 => {
            meaning.text.push_str(
                " The server asks who it is: a part of every log-on (with NTLM two of them). If credentials were shown and it \
                 asks again, they are wrong: auth:rejected.",
            );
        }
        300.. => {
            meaning.acts = Some(class_of(code));
            let [register, other] = codes::advice_for(code);
            meaning.advice.push(register);
            if other != register {
                meaning.advice.push(other);
            }
        }
        _ => {}
    }
    Some(meaning)
}

fn diagnostic(id: u32) -> Option<Meaning> {
    let word = format!("ErrorCode {id}");
    let Some(known) = known::known(id) else {
        let range = known::range(id)?;
        return Some(Meaning {
            word,
            kind: "ms-diagnostics",
            text: format!("not in the table of this version; ids of this range are about {range}."),
            acts: None,
            advice: vec![
                "Read the reason that comes with it, and the event log of the server named as Source.",
            ],
        });
    };
    let mut text = format!("{}.", known.reason);
    if !known.codes.is_empty() {
        let codes: Vec<String> =
            known.codes.iter().map(|code| format!("{code} {}", codes::phrase(*code))).collect();
        write!(text, " Comes with {}.", codes.join(", ")).unwrap_or_default();
    }
    let kind = if known.public { "ms-diagnostics-public" } else { "ms-diagnostics" };
    Some(Meaning { word, kind, text, acts: Some(known.class), advice: vec![known.advice] })
}

fn list() -> String {
    let mut out = String::new();
    let mut line = |word: &str, kind: &str, text: &str| {
        writeln!(out, "{word:<24} {kind:<27} {text}").unwrap_or_default();
    };
    words::ENTRIES.iter().for_each(|e| line(e.word, e.kind, e.text));
    codes::FAILURES.iter().for_each(|row| line(row.code, "failure", row.meaning));
    codes::STATUS.iter().for_each(|(code, phrase)| line(&format!("sip:{code}"), "SIP response", phrase));
    known::KNOWN.iter().for_each(|row| line(&row.id.to_string(), "ms-diagnostics", row.reason));
    out
}

fn unknown(word: &str) -> String {
    let numbers: Vec<String> = codes::STATUS
        .iter()
        .map(|row| format!("sip:{}", row.0))
        .chain(known::KNOWN.iter().map(|row| row.id.to_string()))
        .collect();
    let mut names: BTreeSet<&str> = words::ENTRIES.iter().map(|e| e.word).collect();
    names.extend(codes::FAILURES.iter().map(|row| row.code));
    names.extend(numbers.iter().map(String::as_str));
    let mut near = Vec::new();
    while near.len() < SUGGESTIONS
        && let Some(name) = nearest(word, names.iter().copied())
    {
        names.remove(name);
        near.push(name);
    }
    let kinds = "metric, counter, reason, exit code, failure, SIP status or diagnostic id";
    match near.split_last() {
        None => format!("`{word}` is no {kinds}; adsum explain lists them"),
        Some((last, [])) => format!("`{word}` is no {kinds}; did you mean {last}?"),
        Some((last, rest)) => {
            format!("`{word}` is no {kinds}; did you mean {} or {last}?", rest.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(word: &str) -> Vec<&'static str> {
        meanings(word).iter().map(|meaning| meaning.kind).collect()
    }

    #[test]
    fn every_word_of_the_tables_is_found_and_says_who_acts_and_what_to_do() {
        for row in codes::FAILURES {
            assert_eq!(kinds(row.code), ["failure"], "{}", row.code);
        }
        for (code, phrase) in codes::STATUS {
            let found = &meanings(&format!("sip:{code}"))[0];
            assert!(found.text.contains(phrase), "{code}");
            let answered = matches!(code, 401 | 407);
            assert_eq!(found.acts.is_some(), *code >= 300 && !answered, "{code}");
            assert_eq!(found.advice.is_empty(), found.acts.is_none(), "{code}");
        }
        for row in known::KNOWN {
            let found = meanings(&row.id.to_string());
            let last = found.last().unwrap();
            assert!(last.acts == Some(row.class) && last.text.starts_with(row.reason), "{}", row.id);
        }
        for entry in words::ENTRIES {
            assert!(kinds(entry.word).contains(&entry.kind), "{}", entry.word);
        }
    }

    #[test]
    fn an_ambiguous_number_shows_all_its_meanings() {
        assert_eq!(kinds("12"), ["exit code"]);
        assert_eq!(kinds("2"), ["exit code", "exit code of check --format nagios"]);
        assert_eq!(kinds("404"), ["SIP response"]);
        assert_eq!(kinds("404, Not Found"), ["SIP response"]);
        assert!(meanings("Not, Found").is_empty() && meanings("999, Nothing").is_empty());
        assert_eq!(kinds("4005"), ["ms-diagnostics"]);
        assert_eq!(kinds("ErrorCode=4141,Source=,Reason=x"), ["ms-diagnostics-public"]);
        assert_eq!(kinds("rx_dropped"), ["counter", "reason not to believe a run"]);
        // Unknown ids pass through with what their range is about; other numbers mean nothing.
        assert!(meanings("2999")[0].text.contains("about presence"));
        assert!(meanings("99999").is_empty() && meanings("7").is_empty());
        assert_eq!(kinds("publish_to_notify.p99"), ["metric"]);
    }

    #[test]
    fn an_unknown_word_gets_the_nearest_ones() {
        assert!(
            unknown("timeout:notfy").contains("did you mean timeout:notify"),
            "{}",
            unknown("timeout:notfy")
        );
        assert!(unknown("publish_to_notfy").contains("publish_to_notify"));
        assert!(unknown("zzzzzzzzzzzz").ends_with("adsum explain lists them"));
    }
}
