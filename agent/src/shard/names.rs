//! Where servers by name are that a pool sends its users to (3xx): a director names
//! the home pool of a user. Each name is asked for once, beside the loop, and for all
//! users that are sent there. The first of them waits for it, which mostly is the proof
//! of readiness; later on an old answer is used until there is a new one, so that no
//! `connect` has a look-up in it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use adsum_presence::host::{Class, Flow, FlowError};
use adsum_presence::population::Transport;
use adsum_sip::Time;
use adsum_sip::time::{MILLISECOND, SECOND};
use tokio::sync::oneshot;

use crate::locate::{Found, LocateError, Resolver};

/// Names that are kept; a pool has a few servers. Who is sent to a further one is not sent there.
const MAX_NAMES: usize = 64;
/// So long an answer is good: addresses of a pool may change in a long run.
const FRESH: u64 = 60 * SECOND;
/// So long it is taken for granted that a name cannot be found.
const FAILED: u64 = 5 * SECOND;
/// While a name is asked for, it is looked this often whether it is known now.
const LOOK_AGAIN: u64 = 2 * MILLISECOND;

type Answer = oneshot::Receiver<Result<Found, LocateError>>;

/// What is known of a name.
#[derive(Debug)]
enum Known {
    Asked(Answer),
    /// Since when, where, and the question that was put again.
    At(Time, Vec<SocketAddr>, Option<Answer>),
    Nowhere(Time, String),
}

/// What comes of a name now.
#[derive(Debug)]
pub enum Place<'a> {
    /// It is not known yet: the flow is waited for.
    Later,
    /// Its addresses, best first; at least one.
    At(&'a [SocketAddr]),
    /// It cannot be found.
    Nowhere(FlowError),
}

/// The names of a shard.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<Rc<str>, Known>,
    /// Flows that wait for a name, with the generation of their line; at most one each.
    waiting: Vec<(Flow, u32)>,
}

impl Names {
    /// Begins to ask for `host[:port]`, unless it is known. `None` if it cannot be asked for: there are
    /// too many names, or it is none.
    pub fn ask(&mut self, now: Time, target: &str, transport: Transport, seed: u64) -> Option<Rc<str>> {
        let Some((name, known)) = self.known.get_key_value(target) else {
            if self.known.len() >= MAX_NAMES {
                return None;
            }
            let name: Rc<str> = target.into();
            self.known.insert(Rc::clone(&name), Known::Asked(question(target, transport, seed)?));
            return Some(name);
        };
        let name = Rc::clone(name);
        let again = match known {
            Known::At(since, _, None) => now.since(*since) >= FRESH,
            Known::Nowhere(since, _) => now.since(*since) >= FAILED,
            Known::Asked(_) | Known::At(..) => false,
        };
        if again && let Some(answer) = question(target, transport, seed) {
            match self.known.get_mut(target) {
                Some(Known::At(.., put)) => *put = Some(answer),
                Some(known) => *known = Known::Asked(answer),
                None => {}
            }
        }
        Some(name)
    }

    /// Where a name is; who has to wait is kept as waiting.
    pub fn place(&mut self, now: Time, name: &str, flow: Flow, generation: u32) -> Place<'_> {
        let Some(known) = self.known.get_mut(name) else { return Place::Nowhere(nowhere(name, "")) };
        if let Known::Asked(receiver) = known {
            match receiver.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.waiting.push((flow, generation));
                    return Place::Later;
                }
                Ok(Ok(found)) => *known = Known::At(now, found.targets, None),
                Ok(Err(error)) => *known = Known::Nowhere(now, error.to_string()),
                Err(oneshot::error::TryRecvError::Closed) => {
                    *known = Known::Nowhere(now, "the question was given up".to_owned());
                }
            }
        }
        if let Known::At(since, addresses, put) = known
            && let Some(answer) = put
        {
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {}
                Ok(Ok(found)) => (*since, *addresses, *put) = (now, found.targets, None),
                // Where it was is better than nowhere.
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => (*since, *put) = (now, None),
            }
        }
        match known {
            Known::At(_, addresses, _) => Place::At(addresses),
            Known::Nowhere(_, reason) => Place::Nowhere(nowhere(name, reason)),
            Known::Asked(_) => Place::Later,
        }
    }

    /// When to look whether what is waited for is known.
    pub fn next_look(&self, now: Time) -> Time {
        if self.waiting.is_empty() { Time::NEVER } else { now + LOOK_AGAIN }
    }

    /// True while an answer is awaited: somebody has to let the questions run.
    pub fn is_asking(&self) -> bool {
        self.known.values().any(|known| matches!(known, Known::Asked(_) | Known::At(.., Some(_))))
    }

    /// Those who wait: to be looked at again.
    pub fn take_waiting(&mut self) -> Vec<(Flow, u32)> {
        std::mem::take(&mut self.waiting)
    }
}

/// Puts a question to the name servers; `None` for what is no `host[:port]`.
fn question(target: &str, transport: Transport, seed: u64) -> Option<Answer> {
    crate::locate::split(target).ok()?;
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    let (sender, answer) = oneshot::channel();
    let asked = target.to_owned();
    runtime.spawn(async move {
        let found = match Resolver::from_environment() {
            Ok(resolver) => resolver.locate(&asked, transport, seed).await,
            Err(error) => Err(error),
        };
        drop(sender.send(found)); // nobody waits any more at the end of a run
    });
    Some(answer)
}

fn nowhere(name: &str, reason: &str) -> FlowError {
    FlowError {
        class: Class::Configuration,
        code: "transport:dns",
        reason: format!("the pool sent the user to {name}, which cannot be found: {reason}"),
        diagnosis: "let the name servers of this host know the names of the pool's servers, as those of its \
                    clients do, or give the user's home server as the target"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_once_and_a_pool_has_not_very_many() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut names = Names::default();
            let mut ask = |name: &str| names.ask(Time(0), name, Transport::Tcp, 1);
            let first = ask("localhost:5063").unwrap();
            assert!(names.is_asking());
            let mut ask = |name: &str| names.ask(Time(0), name, Transport::Tcp, 1);
            assert!(Rc::ptr_eq(&first, &ask("localhost:5063").unwrap()));
            assert_eq!(ask("localhost:x"), None);
            for nth in 1..MAX_NAMES {
                assert!(ask(&format!("127.0.0.1:{nth}")).is_some());
            }
            assert_eq!(ask("127.0.0.1:65000"), None, "they are bounded");
            let mut turns = 0;
            loop {
                match names.place(Time(0), &first, 7, 1) {
                    Place::Later => assert_eq!(names.take_waiting(), [(7, 1)]),
                    Place::At(all) => {
                        break assert!(all.iter().all(|a| a.port() == 5063 && a.ip().is_loopback()));
                    }
                    Place::Nowhere(error) => panic!("{error:?}"),
                }
                turns += 1;
                assert!(turns < 5_000);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            assert_eq!(names.next_look(Time(5)), Time::NEVER);
            // An answer that has grown old is good until the next one is there.
            let late = Time(2 * FRESH);
            for _ in 0..500 {
                assert!(names.ask(late, &first, Transport::Tcp, 1).is_some());
                assert!(matches!(names.place(late, &first, 7, 1), Place::At(_)));
                if matches!(names.known[&first], Known::At(since, _, None) if since == late) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            panic!("it was not asked again");
        });
    }

    #[test]
    fn without_a_runtime_nobody_is_asked() {
        assert_eq!(Names::default().ask(Time(0), "localhost:5063", Transport::Tcp, 1), None);
    }
}
