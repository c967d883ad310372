//! RFC 3263 §4.3: what a failure is, and where the request goes then.

use std::net::SocketAddr;

use adsum_sip::Time;
use adsum_sip::locate::{Failover, FailoverCounts, Failure, MAX_ADDRESSES, REST, REST_LIMIT};
use adsum_sip::time::{SECOND, TIMEOUT};
use proptest::prelude::*;

fn targets(count: usize) -> Vec<SocketAddr> {
    (0..count).map(|at| SocketAddr::from(([192, 0, 2, at as u8], 5060))).collect()
}

const NOW: Time = Time(1000 * SECOND);

#[test]
fn a_request_goes_through_all_targets_in_order_and_then_gives_up() {
    let list = targets(3);
    let mut failover = Failover::new(&list);
    let mut attempt = failover.begin(NOW).expect("a target");
    let mut went = vec![failover.address(attempt).expect("its address")];
    while let Some(next) = failover.failed(attempt, Failure::Transport, NOW) {
        attempt = next;
        went.push(failover.address(attempt).expect("its address"));
    }
    assert_eq!(went, list);
    assert_eq!(attempt.targets(), 3);
    assert_eq!(failover.resting(NOW), 3);
    assert_eq!(failover.counts(), FailoverCounts { transport: 3, gave_up: 1, ..Default::default() });
}

#[test]
fn new_requests_avoid_a_target_while_it_rests_and_return_to_it() {
    let mut failover = Failover::new(&targets(2));
    let first = failover.begin(NOW).expect("a target");
    let second = failover.failed(first, Failure::Silence, NOW).expect("the other");
    assert_eq!((first.index(), second.index()), (0, 1));
    let at = |failover: &Failover, now| failover.begin(now).expect("a target").index();
    assert_eq!(at(&failover, NOW + (REST - 1)), 1);
    assert_eq!(at(&failover, NOW + REST), 0);
}

#[test]
fn an_answer_ends_the_rest() {
    let mut failover = Failover::new(&targets(2));
    let first = failover.begin(NOW).expect("a target");
    failover.failed(first, Failure::Transport, NOW);
    failover.answered(first, NOW + SECOND);
    assert_eq!((failover.resting(NOW + SECOND), failover.begin(NOW + SECOND)), (0, Some(first)));
}

#[test]
fn when_all_rest_the_one_that_wakes_first_is_tried() {
    let mut failover = Failover::new(&targets(2));
    let first = failover.begin(NOW).expect("a target");
    let second = failover.failed(first, Failure::Unavailable(Some(120)), NOW).expect("the other");
    assert_eq!(failover.failed(second, Failure::Transport, NOW + SECOND), None);
    assert_eq!(failover.begin(NOW + 2 * SECOND).expect("a target").index(), 1);
    // A request that has nowhere else to go tries a target that rests.
    let other = failover.begin(NOW + 2 * SECOND).expect("a target");
    assert_eq!(failover.failed(other, Failure::Transport, NOW + 2 * SECOND).expect("the other").index(), 0);
}

#[test]
fn one_target_is_never_refused_to_a_new_request() {
    let mut failover = Failover::new(&targets(1));
    for second in 0..5 {
        let now = NOW + second * SECOND;
        let attempt = failover.begin(now).expect("the target");
        assert_eq!(failover.failed(attempt, Failure::Unavailable(None), now), None);
    }
    assert_eq!(failover.counts(), FailoverCounts { unavailable: 5, gave_up: 5, ..Default::default() });
}

#[test]
fn retry_after_is_kept_within_bounds() {
    for (asked, rest) in
        [(None, REST), (Some(0), SECOND), (Some(7), 7 * SECOND), (Some(u32::MAX), REST_LIMIT)]
    {
        let mut failover = Failover::new(&targets(1));
        let attempt = failover.begin(NOW).expect("the target");
        failover.failed(attempt, Failure::Unavailable(asked), NOW);
        assert_eq!((failover.resting(NOW + (rest - 1)), failover.resting(NOW + rest)), (1, 0), "{asked:?}");
    }
}

#[test]
fn an_answer_under_way_does_not_end_a_rest_that_was_asked_for() {
    let mut failover = Failover::new(&targets(2));
    let first = failover.begin(NOW).expect("a target");
    failover.failed(first, Failure::Unavailable(Some(10)), NOW);
    failover.answered(first, NOW + SECOND);
    assert_eq!(failover.begin(NOW + 9 * SECOND).expect("a target").index(), 1);
    assert_eq!(failover.begin(NOW + 10 * SECOND).expect("a target").index(), 0);
}

#[test]
fn a_request_within_a_dialog_reports_and_stays() {
    let list = targets(2);
    let mut failover = Failover::new(&list);
    let dialog = failover.at(list[0]).expect("a target of the list");
    failover.report(dialog, Failure::Transport, NOW);
    assert_eq!((failover.resting(NOW), failover.counts().gave_up), (1, 0));
    assert_eq!(failover.begin(NOW).and_then(|attempt| failover.address(attempt)), Some(list[1]));
    assert_eq!(failover.at(SocketAddr::from(([192, 0, 2, 99], 5060))), None);
}

#[test]
fn silence_that_is_older_than_an_answer_moves_the_request_and_not_the_pool() {
    let mut failover = Failover::new(&targets(2));
    let lost = failover.begin(NOW).expect("a target");
    failover.answered(lost, NOW + SECOND);
    let moved = failover.failed(lost, Failure::Silence, NOW + TIMEOUT).expect("the other");
    assert_eq!((moved.index(), failover.resting(NOW + TIMEOUT)), (1, 0));
    // Without an answer since the request was sent the target rests.
    failover.failed(lost, Failure::Silence, NOW + 2 * TIMEOUT);
    assert_eq!(failover.resting(NOW + 2 * TIMEOUT), 1);
}

#[test]
fn only_503_and_silence_are_failures() {
    for status in [100, 200, 302, 401, 404, 408, 481, 500, 504, 600] {
        assert_eq!(Failure::of_response(status, Some(1)), None, "{status}");
    }
    assert_eq!(Failure::of_response(503, Some(9)), Some(Failure::Unavailable(Some(9))));
    assert_eq!((Failure::of_timeout(true), Failure::of_timeout(false)), (None, Some(Failure::Silence)));
}

#[test]
fn no_targets_and_too_many() {
    assert_eq!(Failover::new(&[]).begin(NOW), None);
    let mut failover = Failover::new(&targets(100));
    let mut attempt = failover.begin(NOW).expect("a target");
    while let Some(next) = failover.failed(attempt, Failure::Transport, NOW) {
        attempt = next;
    }
    assert_eq!(attempt.targets() as usize, MAX_ADDRESSES);
}

proptest! {
    /// Whatever fails and answers meanwhile, no request meets a target twice and each ends.
    #[test]
    fn no_request_meets_a_target_twice(
        count in 1..9usize,
        script in proptest::collection::vec((0..4u8, 0..60u64), 1..80),
    ) {
        let mut failover = Failover::new(&targets(count));
        let mut now = NOW;
        let mut request = failover.begin(now).expect("a target");
        let mut met = vec![request.index()];
        for (what, seconds) in script {
            now = now + seconds * SECOND;
            let failure = match what {
                0 => Failure::Transport,
                1 => Failure::Silence,
                2 => Failure::Unavailable(Some(seconds as u32)),
                _ => {
                    let other = failover.begin(now).expect("a target");
                    failover.answered(other, now);
                    continue;
                }
            };
            match failover.failed(request, failure, now) {
                Some(next) => {
                    prop_assert!(!met.contains(&next.index()), "{met:?} and again {}", next.index());
                    met.push(next.index());
                    request = next;
                }
                None => {
                    prop_assert_eq!(met.len(), count);
                    request = failover.begin(now).expect("a target");
                    met = vec![request.index()];
                }
            }
            prop_assert!(failover.resting(now) <= count);
        }
    }
}
