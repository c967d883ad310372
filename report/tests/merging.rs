//! However samples are split over agents, sent in whatever order and however
//! often, the sum is that of one recorder that saw them all.

use adsum_report::raw::{Count, Interval, Series};
use adsum_report::{Base, Histogram, Metric, Phase, Raw};
use proptest::prelude::*;

fn series_of(values: &[u64]) -> Series {
    let mut histogram = Histogram::new();
    values.iter().for_each(|us| histogram.record_n(*us, 1).unwrap());
    let mut before = 0;
    let (mut deltas, mut counts) = (Vec::new(), Vec::new());
    for (index, n) in histogram.cells() {
        deltas.push(index - before);
        before = index;
        counts.push(n);
    }
    Series { step: 1, phase: Phase::Hold, metric: Metric::Publish, base: Base::Sent, deltas, counts }
}

proptest! {
    #[test]
    fn the_sum_is_that_of_one_recorder(
        samples in prop::collection::vec((1u64..3_600_000_000, 0usize..4, 0u64..6), 1..300),
        order in any::<u64>(),
        resent in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut whole = Histogram::new();
        samples.iter().for_each(|(us, ..)| whole.record_n(*us, 1).unwrap());
        let mut intervals = Vec::new();
        for agent in 0..4usize {
            for number in 0..6u64 {
                let values: Vec<u64> =
                    samples.iter().filter(|s| (s.1, s.2) == (agent, number)).map(|s| s.0).collect();
                let sent = Count {
                    step: 1, phase: Phase::Hold, counter: "sent".into(), label: String::new(), value: values.len() as u64,
                };
                intervals.push(Interval {
                    agent: format!("a{agent}"), site: format!("s{}", agent % 2), incarnation: 7, number,
                    second: 100 + number as i64, series: vec![series_of(&values)], counts: vec![sent], failures: Vec::new(),
                });
            }
        }
        let mut in_order = Raw::default();
        intervals.iter().for_each(|i| { in_order.absorb(i).unwrap(); });
        // Another order, and some of them again.
        let mut shuffled = intervals.clone();
        let mut chance = order;
        for at in (1..shuffled.len()).rev() {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(at, (chance >> 33) as usize % (at + 1));
        }
        let mut raw = Raw::default();
        for interval in &shuffled {
            prop_assert!(raw.absorb(interval).unwrap());
        }
        for index in resent {
            prop_assert!(!raw.absorb(index.get(&intervals)).unwrap());
        }
        prop_assert_eq!(&raw, &in_order);
        prop_assert_eq!(raw.series(1, Phase::Hold, None, Metric::Publish, Base::Sent), whole);
        prop_assert_eq!(raw.total(1, Phase::Hold, None, "sent", None), samples.len() as u64);
    }

    #[test]
    fn cells_that_do_not_exist_are_refused(deltas in prop::collection::vec(any::<u32>(), 0..20), n in 0usize..20) {
        let counts = vec![1u64; n];
        let mut histogram = Histogram::new();
        let fits = deltas.len() == n
            && deltas.iter().try_fold(0u32, |sum, d| sum.checked_add(*d)).is_some_and(|last| last <= adsum_report::histogram::LAST_INDEX);
        prop_assert_eq!(histogram.add_sparse(&deltas, &counts).is_ok(), fits);
        if !fits {
            prop_assert!(histogram.is_empty());
        }
    }
}

#[test]
fn what_no_run_can_count_is_refused_and_nothing_of_it_stays() {
    let interval = |number, sent: &[u64]| Interval {
        agent: "a".into(),
        site: "s".into(),
        incarnation: 7,
        number,
        second: 100,
        series: vec![series_of(&[5])],
        counts: sent
            .iter()
            .map(|value| Count {
                step: 1,
                phase: Phase::Hold,
                counter: "sent".into(),
                label: String::new(),
                value: *value,
            })
            .collect(),
        failures: Vec::new(),
    };
    let mut raw = Raw::default();
    assert!(raw.absorb(&interval(0, &[3])).unwrap());
    let before = raw.clone();
    for wrong in [&[u64::MAX][..], &[u64::MAX, u64::MAX], &[1 << 62]] {
        assert!(raw.absorb(&interval(1, wrong)).is_err());
        assert_eq!(raw, before);
    }
    let mut crowded = interval(1, &[]);
    crowded.series = vec![Series { counts: vec![u64::MAX], ..series_of(&[5]) }; 3];
    assert!(raw.absorb(&crowded).is_err());
    assert_eq!(raw, before);
    assert!(raw.absorb(&interval(1, &[4])).unwrap());
    assert_eq!(raw.total(1, Phase::Hold, None, "sent", None), 7);
}
