//! Whatever comes in whatever order: nothing panics, everything has an answer
//! or none is due, and what belongs to endpoints goes with them.

mod common;

use common::lync::{Client, World, machine, note, open, with};
use common::{Request, SECOND, aor};
use proptest::prelude::*;

const USERS: u32 = 4;

/// One step of some client.
#[derive(Debug, Clone)]
enum Step {
    Register { expires: u32 },
    Own,
    Contacts,
    Watch { who: Vec<u32>, again: bool },
    Leave { who: Vec<u32> },
    Refresh { expires: u32 },
    Publish { version: u32, container: u16, availability: u16 },
    Members { container: u16, version: u32 },
    Disconnect,
    Pass { seconds: u64 },
    Answer { code: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = || prop::collection::vec(1..=USERS + 1, 0..4);
    prop_oneof![
        4 => prop::sample::select(vec![0, 300, 900]).prop_map(|expires| Step::Register { expires }),
        2 => Just(Step::Own),
        1 => Just(Step::Contacts),
        4 => (who(), any::<bool>()).prop_map(|(who, again)| Step::Watch { who, again }),
        1 => who().prop_map(|who| Step::Leave { who }),
        1 => prop::sample::select(vec![0, 1_200]).prop_map(|expires| Step::Refresh { expires }),
        6 => (0u32..3, prop::sample::select(vec![2, 200, 300]), prop::sample::select(vec![3_500, 6_500, 18_500]))
            .prop_map(|(version, container, availability)| Step::Publish { version, container, availability }),
        1 => (prop::sample::select(vec![200, 400, 32_000]), 0u32..2)
            .prop_map(|(container, version)| Step::Members { container, version }),
        1 => Just(Step::Disconnect),
        1 => prop::sample::select(vec![1, 301, 1_201]).prop_map(|seconds| Step::Pass { seconds }),
        1 => prop::sample::select(vec![200, 481, 500]).prop_map(|code| Step::Answer { code }),
    ]
}

fn uris(who: &[u32]) -> Vec<String> {
    // One more than there are users.
    who.iter()
        .map(|user| if *user > USERS { "sip:nobody@pool.test".to_owned() } else { aor(*user) })
        .collect()
}

fn request(client: &mut Client, step: &Step) -> Option<Request> {
    Some(match step {
        Step::Register { expires } => client.register().line(&format!("Expires: {expires}")),
        Step::Own => client.subscribe("vnd-microsoft-roaming-self"),
        Step::Contacts => client.subscribe_plain("vnd-microsoft-roaming-contacts"),
        Step::Watch { who, again } => {
            let request = client.batch("subscribe", &uris(who), &["state", "note"]);
            if *again { request.in_dialog(&client.batch_tag.clone()) } else { request }
        }
        Step::Leave { who } => {
            client.batch("unsubscribe", &uris(who), &[]).in_dialog(&client.batch_tag.clone())
        }
        Step::Refresh { expires } => {
            client.subscribe("presence").in_dialog(&client.batch_tag.clone()).line(&format!("Expires: {expires}"))
        }
        Step::Publish { version, container: 2, availability } => client.publish(&machine(*version, *availability)),
        Step::Publish { version, container, .. } => client.publish(&[note(*container, *version, "x")]),
        Step::Members { container, version } => client.service(
            "msrtc-setcontainermembers+xml",
            &format!(
                "<setContainerMembers xmlns=\"http://schemas.microsoft.com/2006/09/sip/container-management\"><container \
                 id=\"{container}\" version=\"{version}\"><member action=\"add\" type=\"user\" value=\"user000001@pool.test\"/>\
                 </container></setContainerMembers>"
            ),
        ),
        Step::Disconnect | Step::Pass { .. } | Step::Answer { .. } => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_everybody_has_left_nothing_is_left(steps in prop::collection::vec((0usize..6, step()), 1..120), notify: bool) {
        let mut world = World::new(with(|lync| lync.notify_instead = notify));
        let mut clients: Vec<Client> = (0..6).map(|n| Client::new(n % USERS + 1, u64::from(n) + 1)).collect();
        let mut unanswered = Vec::new();
        for (at, step) in steps {
            match &step {
                Step::Disconnect => {
                    let sent = world.disconnect(&clients[at]);
                    prop_assert!(sent.iter().all(|m| m.peer != clients[at].peer));
                }
                Step::Pass { seconds } => drop(world.pass(seconds * SECOND)),
                Step::Answer { code } => {
                    if let Some(notify) = unanswered.pop() {
                        let notify: common::Msg = notify;
                        prop_assert!(world.say(notify.peer, &notify.answer(*code)).is_empty());
                    }
                }
                _ => {
                    let request = request(&mut clients[at], &step).unwrap();
                    let sent = world.tell(&clients[at], &request);
                    let answers = sent.iter().filter(|m| m.text.starts_with("SIP/2.0")).count();
                    prop_assert_eq!(answers, 1);
                    prop_assert_eq!(sent[0].peer, clients[at].peer);
                    if matches!(step, Step::Watch { again: false, .. }) && sent[0].code() == 200 {
                        clients[at].batch_tag = sent[0].to_tag();
                    }
                    unanswered.extend(sent.into_iter().filter(|m| m.is_notify()));
                }
            }
            let stats = world.stats();
            prop_assert!(stats.registrations <= 6 && stats.watches <= 6 * 200 * 4);
        }
        for client in &clients {
            world.disconnect(client);
        }
        let stats = world.stats();
        prop_assert_eq!((stats.registrations, stats.subscriptions, stats.watches), (0, 0, 0));
        // Only notes are static: two containers of four users at most.
        prop_assert!(stats.publications <= 8);
        world.pass(40_000 * SECOND);
        prop_assert_eq!(world.core.next_timer(), adsum_sip::Time::NEVER);
    }

    /// A conversation with bytes changed at random.
    #[test]
    fn broken_messages_do_no_harm(edits in prop::collection::vec((0usize..7, any::<prop::sample::Index>(), any::<u8>(), 0usize..3), 1..30)) {
        let mut world = World::new(open());
        let mut client = world.watcher(1, 1, &[2]);
        let steps = [
            Step::Register { expires: 900 },
            Step::Own,
            Step::Watch { who: vec![2, 3, 5], again: true },
            Step::Publish { version: 0, container: 2, availability: 3_500 },
            Step::Publish { version: 0, container: 200, availability: 0 },
            Step::Members { container: 200, version: 1 },
            Step::Refresh { expires: 1_200 },
        ];
        for (which, at, byte, kind) in edits {
            let mut bytes = request(&mut client, &steps[which]).unwrap().text(1).into_bytes();
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
            let mut outs = Vec::new();
            world.core.handle(world.now, client.peer, &bytes, &mut outs);
            prop_assert!(outs.iter().filter(|out| !out.notify).count() <= 1);
            for out in outs {
                // Whatever is sent can be read.
                let mut scanner = adsum_sip::Scanner::new();
                prop_assert!(scanner.scan(&out.bytes).is_ok(), "{}", String::from_utf8_lossy(&out.bytes));
            }
        }
        world.disconnect(&client);
        prop_assert_eq!(world.stats().watches, 0);
    }
}
