//! The scanner reads what is written, and the same as rsip wherever rsip can
//! read; and nothing that is done to a message makes scanner, readers or framer
//! panic, read outside or depend on how the bytes were cut.

mod corpus;

use adsum_sip::frame::{self, Frame, FrameError};
use adsum_sip::oracle::{Look, Opinion, second_opinion};
use adsum_sip::server::Key;
use adsum_sip::{HeaderId, Message, ScanError, Scanner, Start, value};
use proptest::prelude::*;

fn text(bytes: Option<&[u8]>) -> String {
    bytes.map_or("-".into(), |bytes| String::from_utf8_lossy(bytes).into_owned())
}

#[test]
fn the_scanner_reads_what_is_written() {
    let mut scanner = Scanner::new();
    for case in corpus::corpus() {
        let message = scanner.scan(&case.raw).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let start = match message.start() {
            Start::Request { method, uri } => format!("{} {}", text(Some(method)), text(Some(uri))),
            Start::Response { code, .. } => code.to_string(),
        };
        assert_eq!(start, case.start, "{}", case.name);
        let contact = message.unfolded(HeaderId::Contact);
        let contact = contact.as_deref().and_then(|line| value::list(line).next()).and_then(value::name_addr);
        let (number, method) = message.cseq().unwrap();
        let [call_id, cseq, ..] = case.fields;
        let wanted = cseq.split_once(' ').unwrap();
        assert_eq!(
            (number, text(Some(method)).as_str()),
            (wanted.0.parse().unwrap(), wanted.1),
            "{}",
            case.name
        );
        let read = [message.from_tag(), message.to_tag(), message.branch(), contact.map(|c| c.uri)].map(text);
        assert_eq!(text(Some(message.call_id())), call_id, "{}", case.name);
        assert_eq!(read, case.fields[2..], "{}", case.name);
        assert_eq!(message.body().len(), case.body, "{}", case.name);
    }
}

#[test]
fn rsip_agrees_wherever_it_can_read() {
    let mut scanner = Scanner::new();
    let mut agreed = 0;
    for case in corpus::corpus() {
        let message = scanner.scan(&case.raw).unwrap();
        match (second_opinion(&case.raw, &message, Look::Whole), case.gap) {
            (Opinion::Agree, None) => agreed += 1,
            (Opinion::NotUnderstood { field, .. }, Some(gap)) if field == gap => {}
            (found, gap) => panic!("{}: {found:?}, expected a gap in {gap:?}", case.name),
        }
    }
    assert!(agreed >= 24, "rsip reads most of the corpus: {agreed}");
}

/// Reads everything there is and sees to it that it lies within the bytes.
fn read_all(raw: &[u8], message: &Message<'_>) {
    let bounds = raw.as_ptr_range();
    let within = |part: &[u8]| {
        let part = part.as_ptr_range();
        // An absent value may be an empty slice of anywhere.
        assert!(part.is_empty() || (part.start >= bounds.start && part.end <= bounds.end));
    };
    let maybe = |part: Option<&[u8]>| part.into_iter().for_each(within);
    match message.start() {
        Start::Request { method, uri } => {
            within(method);
            within(uri);
            let _parts = value::sip_uri(uri);
        }
        Start::Response { code, reason } => {
            assert!((100..700).contains(&code));
            within(reason);
        }
    }
    within(message.body());
    for (name, value) in message.lines() {
        within(name);
        within(value);
        assert!(!name.is_empty());
        for element in value::list(value) {
            within(element);
            if let Some(via) = value::via(element) {
                [via.transport, via.host, via.params].into_iter().for_each(within);
            }
            if let Some(address) = value::name_addr(element) {
                [address.uri, address.params].into_iter().for_each(within);
                maybe(value::param(address.params, "expires"));
                if let Some(uri) = value::sip_uri(address.uri) {
                    [uri.user, uri.host, uri.params].into_iter().for_each(within);
                }
            }
        }
        maybe(value::tag(value));
        maybe(value::branch(value));
        maybe(value::cseq(value).map(|(_, method)| method));
        within(value::subscription_state(value).state);
        let _number = (value::number(value), value::leading_number(value));
        assert!(!adsum_sip::scan::unfold(value).contains(&b'\n'));
    }
    [message.from_tag(), message.to_tag(), message.branch()].into_iter().for_each(maybe);
    within(message.method());
    let _key = Key::of(message);
}

/// Everything that comes out of a stream that arrives in these parts, and how it ended.
fn framed<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<FrameError>, Vec<u8>) {
    let mut buffer = Vec::new();
    let mut found = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            match frame::next(&buffer) {
                Ok(Frame::More) => break,
                Ok(Frame::KeepAlive(n)) => {
                    assert!(n > 0 && n <= buffer.len());
                    buffer.drain(..n);
                }
                Ok(Frame::Message { begin, end }) => {
                    assert!(begin < end && end <= buffer.len());
                    found.push(buffer[begin..end].to_vec());
                    buffer.drain(..end);
                }
                Err(error) => return (found, Some(error), Vec::new()),
            }
        }
    }
    // Line breaks at the end are taken as keep-alives if nothing else is there yet.
    let begin = buffer.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(buffer.len());
    (found, None, buffer.split_off(begin))
}

/// What is done to some bytes.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Drop(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    /// The rest of another message.
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let words: Vec<Vec<u8>> = [
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        "\n\n",
        "\r\n ",
        ":",
        ";",
        ",",
        "\"",
        "<",
        ">",
        "\\",
        " ",
        "\t",
        "/",
        "@",
        "=",
        ";branch=",
        ";tag=",
        "SIP/2.0 ",
        "[",
        "]",
        "\0",
        "Content-Length: 5\r\n",
        "l:99999999999\r\n",
        "l: -1\r\n",
        "v: SIP/2.0/UDP x\r\n",
        "z9hG4bK",
        "%",
        "?",
    ]
    .iter()
    .map(|word| word.as_bytes().to_vec())
    .collect();
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        index().prop_map(Change::Cut),
        (index(), 1usize..20).prop_map(|(at, n)| Change::Drop(at, n)),
        (index(), prop::sample::select(words)).prop_map(|(at, word)| Change::Insert(at, word)),
        (index(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, word)| Change::Insert(at, word)),
        (index(), index(), index()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

fn apply(raw: &mut Vec<u8>, change: &Change, corpus: &[corpus::Case]) {
    if raw.is_empty() {
        return;
    }
    match change {
        Change::Flip(at, bit) => {
            let at = at.index(raw.len());
            raw[at] ^= 1 << bit;
        }
        Change::Cut(at) => raw.truncate(at.index(raw.len())),
        Change::Drop(at, n) => {
            let at = at.index(raw.len());
            raw.drain(at..(at + n).min(raw.len()));
        }
        Change::Insert(at, word) => {
            let at = at.index(raw.len());
            raw.splice(at..at, word.iter().copied());
        }
        Change::Splice(at, other, from) => {
            raw.truncate(at.index(raw.len()));
            let other = &corpus[other.index(corpus.len())].raw;
            raw.extend_from_slice(&other[from.index(other.len())..]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a message: no panic, nothing outside, and an oracle that stands it.
    #[test]
    fn changed_messages_are_read_or_refused(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let corpus = corpus::corpus();
        let mut raw = corpus[which.index(corpus.len())].raw.clone();
        for change in &changes {
            apply(&mut raw, change, corpus);
        }
        let mut scanner = Scanner::new();
        if let Ok(message) = scanner.scan(&raw) {
            read_all(&raw, &message);
            let _opinion = second_opinion(&raw, &message, Look::Whole);
        }
        let (messages, _, _) = framed([&raw[..]].into_iter());
        for raw in messages {
            if let Ok(message) = scanner.scan(&raw) {
                read_all(&raw, &message);
            }
        }
    }

    /// How a stream is cut into pieces does not change what comes out of it.
    #[test]
    fn framing_does_not_depend_on_the_cuts(
        which in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        changes in prop::collection::vec(change(), 0..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let corpus = corpus::corpus();
        let mut stream = Vec::new();
        for which in which {
            stream.extend_from_slice(&corpus[which.index(corpus.len())].raw);
        }
        for change in &changes {
            apply(&mut stream, change, corpus);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut from = 0;
        let parts = cuts.iter().map(|cut| &stream[std::mem::replace(&mut from, *cut)..*cut]);
        let whole = framed([&stream[..]].into_iter());
        prop_assert_eq!(framed(parts), whole);
    }

    /// What the scanner takes for the end of a message, the framer does too.
    #[test]
    fn framer_and_scanner_see_the_same_end(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 0..4),
    ) {
        let corpus = corpus::corpus();
        let mut raw = corpus[which.index(corpus.len())].raw.clone();
        for change in &changes {
            apply(&mut raw, change, corpus);
        }
        match Scanner::new().scan(&raw) {
            Ok(message) if message.header(HeaderId::ContentLength).is_some() => {
                let end = message.body().as_ptr_range().end as usize - raw.as_ptr() as usize;
                let begin = raw.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap();
                prop_assert_eq!(frame::next(&raw), Ok(Frame::Message { begin, end }));
            }
            Err(ScanError::BodyTruncated { announced, .. }) => {
                let found = frame::next(&raw);
                prop_assert!(matches!(found, Ok(Frame::More) | Err(FrameError::BodyTooLong(_))), "{announced} {found:?}");
            }
            _ => {}
        }
    }

    /// Arbitrary bytes are refused or read; never more.
    #[test]
    fn noise_is_refused_or_read(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Scanner::new().scan(&raw) {
            read_all(&raw, &message);
        }
        let _frames = framed([&raw[..]].into_iter());
    }
}
