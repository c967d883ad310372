//! Reads transcripts; the format is explained in `transcripts/README.md`.

use std::path::Path;

use adsum_presence::lync::LyncOptions;
use adsum_presence::population::{Dialect, Kind, Transport};

const MS: u64 = 1_000_000;

/// Where a step stands, for mismatches.
#[derive(Debug, Clone)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub text: String,
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub transport: Transport,
    pub kind: Kind,
    pub self_subscribe: bool,
    pub reuse_nonce: bool,
    pub expires: u32,
    pub publish_expires: u32,
    pub deadline: u64,
    pub pairs: u32,
    /// The host follows redirections over streams.
    pub redirects: bool,
    pub dialect: Dialect,
    /// Who watches whom, if not the second user of each pair the first.
    pub contacts: Vec<(u32, u32)>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            transport: Transport::Udp,
            kind: Kind::Workflow,
            self_subscribe: false,
            reuse_nonce: false,
            expires: 600,
            publish_expires: 600,
            deadline: 25_000 * MS,
            pairs: 1,
            redirects: true,
            dialect: Dialect::Simple,
            contacts: Vec::new(),
        }
    }
}

/// One indented line of a message.
#[derive(Debug, Clone)]
pub enum Line {
    /// `Name: value`; `-` for "not there".
    Is(String, String),
    /// `Name ~ part`.
    Has(String, String),
    /// `| text`: part of the body, or a line of it.
    Body(String),
}

#[derive(Debug, Clone)]
pub struct Block {
    pub start: String,
    pub name: Option<String>,
    /// Nanoseconds since the last `mark`.
    pub between: Option<(u64, u64)>,
    pub compact: bool,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone)]
pub enum Do {
    Expect(Block),
    Serve(Block),
    /// Time passes, nanoseconds.
    Pass(u64),
    /// Time passes until something is sent.
    Await(u64),
    Mark,
    Act(Vec<String>),
    Check(Vec<String>),
}

#[derive(Debug, Clone)]
pub struct Step {
    pub place: Place,
    pub what: Do,
}

pub struct Script {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// Reads a transcript from its text; `parts` is where `use` looks.
pub fn read(name: &str, text: &str, parts: &Path) -> Script {
    let mut script = Script { setup: Setup::default(), steps: Vec::new() };
    read_into(&mut script, name, text, parts, 0);
    script
}

fn read_into(script: &mut Script, name: &str, text: &str, parts: &Path, depth: u32) {
    assert!(depth < 8, "{name}: parts use parts too deeply");
    for (at, raw) in text.lines().enumerate() {
        let place = Place { file: name.to_owned(), line: at + 1, text: raw.to_owned() };
        let wrong = |what: &str| -> ! { panic!("{name}:{}: {what}: {raw}", at + 1) };
        if raw.trim().is_empty() || raw.starts_with('#') {
            continue;
        }
        if raw.starts_with(' ') {
            let Some(Step { what: Do::Expect(block) | Do::Serve(block), .. }) = script.steps.last_mut()
            else {
                wrong("an indented line belongs to a message")
            };
            block.lines.push(message_line(raw.trim()).unwrap_or_else(|| wrong("neither header nor body")));
            continue;
        }
        let words: Vec<String> = raw.split_whitespace().map(str::to_owned).collect();
        let mut push = |what| script.steps.push(Step { place: place.clone(), what });
        match words[0].as_str() {
            ">" => push(Do::Expect(block(&words[1..]).unwrap_or_else(|| wrong("no message")))),
            "<" => push(Do::Serve(block(&words[1..]).unwrap_or_else(|| wrong("no message")))),
            "mark" => push(Do::Mark),
            "wait" => push(Do::Await(duration(&words[1]).unwrap_or_else(|| wrong("no duration")))),
            "use" => {
                let path = parts.join(format!("{}.txt", words[1]));
                let part = std::fs::read_to_string(&path).unwrap_or_else(|e| wrong(&e.to_string()));
                read_into(script, &format!("parts/{}", words[1]), &part, parts, depth + 1);
            }
            "count" | "sampled" | "censored" | "failed" | "tally" | "left" => push(Do::Check(words)),
            "start" | "sign_on" | "sign_off" | "subscribe" | "publish" | "flow" => push(Do::Act(words)),
            word if word.starts_with('+') => {
                push(Do::Pass(duration(&word[1..]).unwrap_or_else(|| wrong("no duration"))));
            }
            _ => {
                if words.len() != 2 || !configure(&mut script.setup, &words[0], &words[1]) {
                    wrong("no such line");
                }
            }
        }
    }
}

/// Sets one key; `false` for a key or value that is none.
fn configure(setup: &mut Setup, key: &str, value: &str) -> bool {
    let done = match key {
        "transport" => put(&mut setup.transport, transport(value)),
        "kind" => put(&mut setup.kind, kind(value)),
        "self_subscribe" => put(&mut setup.self_subscribe, yes(value)),
        "reuse_nonce" => put(&mut setup.reuse_nonce, yes(value)),
        "expires" => put(&mut setup.expires, value.parse().ok()),
        "publish_expires" => put(&mut setup.publish_expires, value.parse().ok()),
        "redirects" => put(&mut setup.redirects, yes(value)),
        "pairs" => put(&mut setup.pairs, value.parse().ok()),
        "dialect" => put(&mut setup.dialect, dialect(value)),
        "contacts" => put(&mut setup.contacts, contacts(value)),
        "deadline" => put(&mut setup.deadline, duration(value)),
        _ => None,
    };
    done.is_some()
}

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn transport(value: &str) -> Option<Transport> {
    match value {
        "udp" => Some(Transport::Udp),
        "tcp" => Some(Transport::Tcp),
        "tls" => Some(Transport::Tls),
        _ => None,
    }
}

/// `lync` trusts the connection: no credentials.
fn dialect(value: &str) -> Option<Dialect> {
    match value {
        "simple" => Some(Dialect::Simple),
        "lync" => Some(Dialect::Lync(LyncOptions::default())),
        _ => None,
    }
}

/// `1>0,1>2`: user 1 watches 0 and 2.
fn contacts(value: &str) -> Option<Vec<(u32, u32)>> {
    let edge = |edge: &str| {
        let (subscriber, publisher) = edge.split_once('>')?;
        Some((subscriber.parse().ok()?, publisher.parse().ok()?))
    };
    value.split(',').map(edge).collect()
}

fn kind(value: &str) -> Option<Kind> {
    match value {
        "workflow" => Some(Kind::Workflow),
        "held" => Some(Kind::Held),
        _ => None,
    }
}

fn yes(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn block(words: &[String]) -> Option<Block> {
    let mut block =
        Block { start: String::new(), name: None, between: None, compact: false, lines: Vec::new() };
    let mut start = Vec::new();
    for word in words {
        if let Some(name) = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')) {
            block.name = Some(name.to_owned());
        } else if let Some(range) = word.strip_prefix('@') {
            let (from, to) = range.split_once("..").unwrap_or((range, range));
            block.between = Some((duration(from)?, duration(to)?));
        } else if word == "compact" {
            block.compact = true;
        } else {
            start.push(word.as_str());
        }
    }
    block.start = start.join(" ");
    (!block.start.is_empty()).then_some(block)
}

fn message_line(text: &str) -> Option<Line> {
    if let Some(body) = text.strip_prefix('|') {
        return Some(Line::Body(body.strip_prefix(' ').unwrap_or(body).to_owned()));
    }
    let end = text.find([':', ' '])?;
    let (name, rest) = (text[..end].to_owned(), &text[end..]);
    if let Some(value) = rest.strip_prefix(':') {
        return Some(Line::Is(name, value.trim().to_owned()));
    }
    let part = rest.trim_start().strip_prefix('~')?;
    Some(Line::Has(name, part.trim().to_owned()))
}

/// `500ms`, `1.5s`, `32s`, `10m` in nanoseconds.
pub fn duration(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, MS),
        None => match text.strip_suffix('s') {
            Some(digits) => (digits, 1_000 * MS),
            None => (text.strip_suffix('m')?, 60_000 * MS),
        },
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let whole: u64 = whole.parse().ok()?;
    let share: u64 = part.parse().ok()?;
    Some(whole * unit + share * unit / 10u64.pow(part.len() as u32))
}
