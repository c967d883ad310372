//! Micro benchmarks of what is recorded and when it is due: recorder, schedule,
//! histograms.

mod common;

use std::hint::black_box;

use adsum_agent::pace::{Arrivals, Ownership, Schedule, Step};
use adsum_agent::recorder::Recorder;
use adsum_presence::host::{Counter, Measure, Method, Phase, Stage};
use adsum_report::histogram::{Histogram, Quantile};
use adsum_sip::Time;
use adsum_sip::ids::mix;
use adsum_sip::time::{MICROSECOND, SECOND};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use common::CpuTime;

const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };

/// Latencies of some hundred microseconds with a tail.
fn latency(n: u64) -> u64 {
    let bits = mix(n);
    (100 + bits % 400) * MICROSECOND * if bits.is_multiple_of(100) { 20 } else { 1 }
}

fn recorder(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("recorder");
    let mut recorder = Recorder::new(0);
    let mut n = 0;
    // What one delivered publication costs: both bases, a count, a message.
    group.bench_function("sample, count and message", |b| {
        b.iter(|| {
            n += 1;
            let (sent, ended) = (Time(SECOND), Time(SECOND + latency(n)));
            recorder.sample(Measure::PublishToNotify, HOLD, sent, sent, black_box(ended));
            recorder.count(ended, HOLD, Counter::Delivered, 1);
            recorder.message(ended, HOLD, false, false, Method::Notify, 0);
        });
    });
    let full = || {
        let mut recorder = Recorder::new(0);
        for n in 0..10_000 {
            let (sent, ended) = (Time(SECOND), Time(SECOND + latency(n)));
            recorder.sample(Measure::PublishToNotify, HOLD, sent, sent, ended);
        }
        recorder
    };
    group.bench_function("close a second of 10000 samples", |b| {
        b.iter_batched(full, |mut recorder| recorder.close(3).len(), BatchSize::LargeInput);
    });
    group.finish();
}

fn schedule(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("schedule");
    // An hour at 100000/s: it does not end while it is measured.
    let step = Step { rate_mhz: 100_000_000, ramp_ns: 0, hold_ns: 3_600 * SECOND };
    let pairs: Vec<u32> = (0..10_000).collect();
    let ownership = Ownership::new(10_000, &pairs, 1, Some(7));
    for (name, arrivals) in [("constant", Arrivals::Constant), ("Poisson", Arrivals::Poisson)] {
        let mut schedule = Schedule::new(&[step], arrivals, 7);
        group.bench_function(format!("next arrival and its pair, {name}"), |b| {
            b.iter(|| {
                let arrival = match schedule.next() {
                    Some(arrival) => arrival,
                    None => {
                        schedule = Schedule::new(&[step], arrivals, 7);
                        schedule.next().expect("an arrival")
                    }
                };
                (arrival.at, ownership.publisher(arrival.k).expect("ours"))
            });
        });
    }
    group.finish();
}

fn histograms(c: &mut Criterion<CpuTime>) {
    let of = |seed: u64| {
        let mut histogram = Histogram::new();
        (0..1_000).for_each(|n| histogram.record_ns(latency(seed + n)).expect("in range"));
        histogram
    };
    let seconds: Vec<Histogram> = (0..60).map(|second| of(second * 1_000)).collect();
    let sum = seconds.iter().fold(Histogram::new(), |mut sum, second| {
        sum.add(second);
        sum
    });
    let mut group = c.benchmark_group("histogram");
    group.throughput(Throughput::Elements(60));
    group.bench_function("merge 60 seconds of 1000 samples", |b| {
        b.iter(|| {
            let mut sum = Histogram::new();
            seconds.iter().for_each(|second| sum.add(black_box(second)));
            assert_eq!(sum.count(), 60_000);
        });
    });
    group.throughput(Throughput::Elements(1));
    let p99 = Quantile::from_fraction(0.99).expect("a quantile");
    group.bench_function("99th percentile of 60000", |b| b.iter(|| sum.percentile(black_box(p99), 0)));
    group.bench_function("write as V2, deflated", |b| b.iter(|| sum.to_v2_deflate().expect("bytes").len()));
    group.finish();
}

criterion_group!(name = benches; config = common::config(); targets = recorder, schedule, histograms);
criterion_main!(benches);
