//! `bench sipp`: two generators, one server, the same pairs at the same rate,
//! taking turns.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::adsum::{Adsum, Scenario};
use crate::kamailio::{self, Kamailio};
use crate::options::{Auth, Connections, SippOptions, Transport};
use crate::process::{self, Named as _, Result, said};
use crate::sample::{Sample, Spread, comparable, figure, good, spread};
use crate::sipp::{Load, Sipp};
use crate::{machine, out_dir};

/// Pairs of the run that nobody measures: caches, page faults, the server's first allocations.
const UNMEASURED: u64 = 200;
/// Runs of one pair, whose median is what a run costs before its load.
const TINY_RUNS: usize = 3;

/// A line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    transport: Transport,
    auth: Auth,
    connections: Connections,
    natural: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Adsum,
    Sipp,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Adsum => "adsum",
            Side::Sipp => "SIPp",
        }
    }
}

/// What one row came to.
#[derive(Debug)]
struct Measured {
    row: Row,
    adsum: Vec<Sample>,
    sipp: Vec<Sample>,
    /// CPU seconds of a run of one pair.
    adsum_tiny: Option<Spread>,
    sipp_tiny: Option<Spread>,
}

struct Bench<'a> {
    options: &'a SippOptions,
    out: PathBuf,
    adsum: Adsum,
    sipp: Sipp,
    certificates: PathBuf,
}

pub fn run(options: &SippOptions) -> Result<()> {
    let sipp = Sipp::find(&options.sipp)?;
    let rows = rows(options);
    if !sipp.has_tls && rows.iter().any(|row| row.transport == Transport::Tls) {
        return Err(said(format!(
            "SIPp {} was built without TLS, as Debian's is: name one with TLS by --sipp PATH, or leave tls out",
            sipp.version
        )));
    }
    let out = out_dir("sipp", options.build.out.as_deref())?;
    let adsum = Adsum::build(&options.build)?;
    let certificates = out.join("certificates");
    adsum.certificates(&certificates)?;
    let bench = Bench { options, out, adsum, sipp, certificates };
    let load_before = machine::load();
    let measured = rows.into_iter().map(|row| bench.measure(row)).collect::<Result<Vec<_>>>()?;
    let runs = bench.out.join("runs.csv");
    std::fs::write(&runs, csv_of(&measured)).named(runs.display())?;
    let mut text = format!(
        "{}, {}. {}, SIPp {}, {}. Load average before: {load_before:.2}, after: {:.2}.\n\
         {} pairs at {}/s, {} repetitions.\n\n",
        machine::line(),
        machine::date("%Y-%m-%d"),
        bench.adsum.version(),
        bench.sipp.version,
        kamailio::version(),
        machine::load(),
        options.pairs,
        options.rate,
        options.repetitions,
    );
    text += &table(&measured);
    let file = bench.out.join("table.md");
    std::fs::write(&file, &text).named(file.display())?;
    println!("{text}\nwrote {} and {}", file.display(), runs.display());
    let compared = measured.iter().all(|m| m.ratio().is_ok());
    if compared { Ok(()) } else { Err(said("a row has no ratio; its remarks say why")) }
}

fn rows(options: &SippOptions) -> Vec<Row> {
    let mut rows = Vec::new();
    for &transport in &options.transport {
        for &auth in &options.auth {
            for &connections in &options.connections {
                rows.push(Row { transport, auth, connections, natural: false });
            }
            if options.natural {
                rows.push(Row { transport, auth, connections: Connections::PerUser, natural: true });
            }
        }
    }
    rows
}

/// A B, B A, A B, …: whatever drifts meets both sides alike.
fn turn(repetition: u32) -> [Side; 2] {
    if repetition.is_multiple_of(2) { [Side::Adsum, Side::Sipp] } else { [Side::Sipp, Side::Adsum] }
}

impl Bench<'_> {
    fn server(&self, row: Row) -> Result<Kamailio> {
        let tls = (row.transport == Transport::Tls).then_some(self.certificates.as_path());
        Kamailio::start(&self.out.join("kamailio"), row.auth == Auth::Digest, tls)
    }

    fn measure(&self, row: Row) -> Result<Measured> {
        eprintln!("bench: {}", row.name());
        let mut server = self.server(row)?;
        let mut tiny: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for side in [Side::Adsum, Side::Sipp] {
            self.once(row, &server, side, UNMEASURED.min(self.options.users / 2))?;
            for _ in 0..TINY_RUNS {
                let sample = self.once(row, &server, side, 1)?;
                tiny[side as usize].extend(sample.is_good().then(|| sample.cpu.total()));
            }
        }
        let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
        for repetition in 0..self.options.repetitions {
            for side in turn(repetition) {
                let sample = self.measured(row, &server, side)?;
                tell(repetition, side, &sample);
                if !sample.is_good() {
                    // What failed left subscriptions behind, which would be notified from now on.
                    drop(server);
                    server = self.server(row)?;
                }
                samples[side as usize].push(sample);
            }
        }
        let [adsum, sipp] = samples;
        let [adsum_tiny, sipp_tiny] = tiny.map(|values| spread(values.into_iter()));
        Ok(Measured { row, adsum, sipp, adsum_tiny, sipp_tiny })
    }

    /// One repetition, with what the server used until its transactions had ended.
    fn measured(&self, row: Row, server: &Kamailio, side: Side) -> Result<Sample> {
        let (drops, cpu) = (process::udp_drops()?, server.cpu()?);
        let mut sample = self.once(row, server, side, self.options.pairs)?;
        std::thread::sleep(Duration::from_secs(self.options.rest));
        sample.server = server.cpu()?.since(cpu);
        if row.transport == Transport::Udp {
            sample.drops = process::udp_drops()?.saturating_sub(drops);
        }
        sample.pairs_wanted = self.options.pairs;
        sample.judge();
        Ok(sample)
    }

    fn once(&self, row: Row, server: &Kamailio, side: Side, pairs: u64) -> Result<Sample> {
        let port = if row.transport == Transport::Tls { server.tls_port } else { server.port };
        let rate = self.options.rate.min(pairs);
        match side {
            Side::Adsum => {
                let mut scenario =
                    Scenario::like_sipp(format!("127.0.0.1:{port}"), row.transport, row.connections);
                scenario.users = self.options.users / 2 * 2;
                scenario.self_subscribe = row.natural;
                scenario.reuse_nonce = row.natural;
                if !row.natural {
                    scenario.quantum_us = self.options.quantum_us;
                    scenario.shards = self.options.shards;
                }
                if row.transport == Transport::Tls {
                    scenario.ca = Some(self.certificates.join("ca.pem"));
                }
                self.adsum.run(&self.out.join("adsum"), &scenario.pairs(pairs, rate))
            }
            Side::Sipp => self.sipp.run(&Load {
                dir: &self.out.join("sipp"),
                target: ("127.0.0.1", port),
                transport: row.transport,
                auth: row.auth,
                connections: row.connections,
                rate,
                pairs,
                users: self.options.users / 2 * 2,
                certificates: Some(Path::new(&self.certificates)),
            }),
        }
    }
}

fn tell(repetition: u32, side: Side, sample: &Sample) {
    eprintln!(
        "bench:   {} {:5}  {} us a message, {} messages, server {} s  {}",
        repetition + 1,
        side.name(),
        figure(sample.us_per_message()),
        sample.messages,
        figure(sample.server.total()),
        if sample.is_good() { String::new() } else { format!("REFUSED: {}", sample.refused.join("; ")) }
    );
}

impl Row {
    fn name(self) -> String {
        let kind = if self.natural { "natural" } else { "like SIPp" };
        format!("{kind}, {}, {}, {}", self.transport, self.auth, self.connections)
    }
}

impl Measured {
    fn sides(&self) -> [(Side, &[Sample], Option<Spread>); 2] {
        [(Side::Adsum, &self.adsum, self.adsum_tiny), (Side::Sipp, &self.sipp, self.sipp_tiny)]
    }

    /// adsum's CPU time over SIPp's: by message and by pair. `Err` says why there is none.
    fn ratio(&self) -> std::result::Result<(f64, f64), String> {
        let of = |samples: &[Sample], figure: fn(&Sample) -> f64, side: Side| {
            good(samples, figure)
                .map(|spread| spread.median)
                .ok_or_else(|| format!("no good repetition of {}", side.name()))
        };
        let both = |figure: fn(&Sample) -> f64| {
            Ok::<_, String>((of(&self.adsum, figure, Side::Adsum)?, of(&self.sipp, figure, Side::Sipp)?))
        };
        let (ours, theirs) = both(Sample::messages_per_pair)?;
        if !self.row.natural && !comparable(ours, theirs) {
            return Err(format!(
                "{ours:.3} and {theirs:.3} messages a pair differ by more than 0.1 %: these are not the same work"
            ));
        }
        let (by_message, by_pair) = (both(Sample::us_per_message)?, both(Sample::s_per_1000_pairs)?);
        Ok((by_message.0 / by_message.1, by_pair.0 / by_pair.1))
    }
}

fn table(measured: &[Measured]) -> String {
    let mut text = String::from(
        "| row | generator | good runs | messages a pair (hold) | CPU µs a message | CPU s per 1000 pairs | of one pair alone, s \
         | shards' own µs a message | waits a message | Kamailio s per 1000 pairs | retransmissions | pairs/s | adsum/SIPp by message, by pair |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut remarks = String::new();
    for m in measured {
        for (side, samples, tiny) in m.sides() {
            let dash = |spread: Option<Spread>| spread.map_or_else(|| "–".to_owned(), |s| s.to_string());
            let plain = |spread: Option<Spread>| spread.map_or_else(|| "–".to_owned(), |s| figure(s.median));
            let hold = good(samples, |s| s.messages_hold as f64 / s.pairs as f64);
            let shards = good(samples, |s| s.shards_s.map_or(f64::NAN, |own| own * 1e6 / s.messages as f64));
            let ratio = match (side, m.ratio()) {
                (Side::Sipp, _) => String::new(),
                (Side::Adsum, Ok((message, pair))) => format!("**{message:.2}**, {pair:.2}"),
                (Side::Adsum, Err(why)) => {
                    let _ = writeln!(remarks, "- {}: no ratio: {why}.", m.row.name());
                    "none".to_owned()
                }
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} of {} | {} ({}) | {} | {} | {} | {} | {} | {} | {} | {} | {ratio} |",
                if side == Side::Adsum { m.row.name() } else { String::new() },
                side.name(),
                samples.iter().filter(|s| s.is_good()).count(),
                samples.len(),
                good(samples, Sample::messages_per_pair)
                    .map_or_else(|| "–".to_owned(), |s| format!("{:.3}", s.median)),
                hold.map_or_else(|| "–".to_owned(), |s| format!("{:.3}", s.median)),
                dash(good(samples, Sample::us_per_message)),
                dash(good(samples, Sample::s_per_1000_pairs)),
                plain(tiny),
                plain(shards),
                plain(good(samples, Sample::waits_per_message)),
                dash(good(samples, Sample::server_s_per_1000_pairs)),
                samples.iter().filter(|s| s.is_good()).map(|s| s.retransmissions).sum::<u64>(),
                plain(good(samples, Sample::pairs_per_s)),
            );
            for (at, sample) in samples.iter().enumerate().filter(|(_, s)| !s.is_good()) {
                let why = sample.refused.join("; ");
                let _ = writeln!(
                    remarks,
                    "- {}: repetition {} of {} is refused: {why}.",
                    m.row.name(),
                    at + 1,
                    side.name()
                );
            }
        }
    }
    if remarks.is_empty() { text } else { format!("{text}\n{remarks}") }
}

fn csv_of(measured: &[Measured]) -> String {
    let mut text = String::from(
        "row,transport,auth,connections,generator,repetition,good,user_s,system_s,cpu_us_per_message,\
         cpu_s_per_1000_pairs,shards_s,server_user_s,server_system_s,pairs,messages,messages_hold,messages_ready,\
         retransmissions,udp_drops,seconds,one_pair_s,ratio_by_message,ratio_by_pair,waits,refused\n",
    );
    for m in measured {
        for (side, samples, tiny) in m.sides() {
            for (at, s) in samples.iter().enumerate() {
                let number = |value: Option<f64>| {
                    value.filter(|v| v.is_finite()).map_or_else(String::new, |v| format!("{v:.6}"))
                };
                let ratio = m.ratio().ok();
                let _ = writeln!(
                    text,
                    "{},{},{},{},{},{},{},{:.6},{:.6},{},{},{},{:.2},{:.2},{},{},{},{},{},{},{:.3},{},{},{},{},\"{}\"",
                    if m.row.natural { "natural" } else { "like-sipp" },
                    m.row.transport,
                    m.row.auth,
                    m.row.connections,
                    side.name(),
                    at + 1,
                    s.is_good(),
                    s.cpu.user_s,
                    s.cpu.system_s,
                    number(Some(s.us_per_message())),
                    number(Some(s.s_per_1000_pairs())),
                    number(s.shards_s),
                    s.server.user_s,
                    s.server.system_s,
                    s.pairs,
                    s.messages,
                    s.messages_hold,
                    s.messages_ready,
                    s.retransmissions,
                    s.drops,
                    s.seconds,
                    number(tiny.map(|t| t.median)),
                    number(ratio.map(|r| r.0)),
                    number(ratio.map(|r| r.1)),
                    s.waits,
                    s.refused.join("; ").replace('"', "'"),
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Cpu;

    fn sample(cpu_s: f64, messages: u64) -> Sample {
        let cpu = Cpu { user_s: cpu_s, system_s: 0.0 };
        Sample { cpu, messages, pairs: 1_000, pairs_wanted: 1_000, seconds: 1.0, ..Sample::default() }
    }

    fn measured(natural: bool, adsum: Vec<Sample>, sipp: Vec<Sample>) -> Measured {
        let row =
            Row { transport: Transport::Udp, auth: Auth::Digest, connections: Connections::Shared, natural };
        Measured { row, adsum, sipp, adsum_tiny: None, sipp_tiny: None }
    }

    #[test]
    fn both_sides_are_first_equally_often() {
        assert_eq!([turn(0), turn(1), turn(2)].map(|t| t[0]), [Side::Adsum, Side::Sipp, Side::Adsum]);
        assert!((0..9).all(|n| turn(n)[0] != turn(n)[1]));
    }

    #[test]
    fn the_ratio_is_of_medians() {
        let adsum = vec![sample(0.1, 38_000), sample(0.2, 38_000), sample(9.0, 38_000)];
        let m = measured(false, adsum, vec![sample(0.4, 38_000)]);
        let (message, pair) = m.ratio().unwrap();
        assert!((message - 0.5).abs() < 1e-9 && (pair - 0.5).abs() < 1e-9);
    }

    #[test]
    fn different_work_has_no_ratio_unless_it_is_the_natural_row() {
        let m = measured(false, vec![sample(0.1, 39_000)], vec![sample(0.1, 38_000)]);
        assert!(m.ratio().unwrap_err().contains("0.1 %"));
        assert!(table(&[m]).contains("no ratio"));
        let m = measured(true, vec![sample(0.1, 19_000)], vec![sample(0.1, 38_000)]);
        let (message, pair) = m.ratio().unwrap();
        assert!((message - 2.0).abs() < 1e-9 && (pair - 1.0).abs() < 1e-9);
    }

    #[test]
    fn refused_repetitions_are_told_and_not_counted() {
        let mut bad = sample(9.0, 38_000);
        bad.drops = 7;
        bad.judge();
        let m = measured(false, vec![bad, sample(0.2, 38_000)], vec![sample(0.2, 38_000)]);
        assert!((m.ratio().unwrap().0 - 1.0).abs() < 1e-9);
        let text = table(std::slice::from_ref(&m));
        assert!(text.contains("1 of 2") && text.contains("7 datagrams"), "{text}");
        assert_eq!(csv_of(&[m]).lines().count(), 4);
        let none = measured(false, Vec::new(), vec![sample(0.2, 38_000)]);
        assert!(none.ratio().unwrap_err().contains("no good repetition of adsum"));
    }
}
