//! Who is told what after something changed: the owner's endpoints all that is
//! left of the categories, and watchers what they see of them.

use adsum_presence::slab::NONE;
use adsum_sip::Time;

use super::super::ids::write_user;
use super::super::knobs::Telling;
use super::category::{self, CONTACT_CARD, Categories, Category, Input, NOTE, OUTPUTS, STATE};
use super::container::BLOCKED;
use super::dialog::Package;
use super::notify::Content;
use super::publish::Touched;
use super::{Lync, Out};

impl Lync {
    /// Something about a user is stored or gone: aggregates first, then whoever
    /// is to know, nobody before `ready`.
    pub(super) fn commit(
        &mut self,
        now: Time,
        ready: Time,
        user: u32,
        touched: &mut Touched,
        out: &mut Vec<Out>,
    ) {
        self.aggregate(now, user, touched);
        self.tell_self(now, ready, user, touched.categories(), touched.pairs(), false, out);
        self.tell_watchers(now, ready, user, touched, out);
    }

    /// Makes the pool's own state instances anew, if their inputs were touched.
    fn aggregate(&mut self, now: Time, user: u32, touched: &mut Touched) {
        let published = self.clock.unix_ms(now);
        let Some(held) = self.users.get_mut(user) else { return };
        if !touched.has(STATE, 2) && !touched.has(STATE, 3) {
            return;
        }
        let from = |container: u16| {
            let inputs = held.instances.iter().filter(|i| i.container == container && i.input != Input::None);
            category::aggregate(inputs.map(|i| i.input))
        };
        let availability = [from(2), category::for_workgroup(from(3))];
        let before = held.aggregate.availability;
        if before == availability {
            return;
        }
        held.aggregate.availability = availability;
        held.aggregate.version += 1;
        held.aggregate.published = published;
        for (container, source) in OUTPUTS {
            if before[source] != availability[source] {
                touched.add(STATE, container);
            }
        }
    }

    /// BENOTIFY to all self-subscriptions of a user, not before `ready`: all
    /// instances of these categories, and the containers if they changed.
    #[expect(clippy::too_many_arguments, reason = "what, about whom, when and into what")]
    pub(super) fn tell_self(
        &mut self,
        now: Time,
        ready: Time,
        user: u32,
        categories: Categories,
        touched: &[(Category, u16)],
        containers: bool,
        out: &mut Vec<Out>,
    ) {
        let Some(held) = self.users.get(user) else { return };
        let dialogs = held.endpoints.iter().flat_map(|slot| self.endpoints[*slot].dialogs.iter().copied());
        let own = dialogs.filter(|slot| self.dialogs[*slot].package == Package::RoamingSelf);
        let own: Vec<u32> = own.collect();
        if own.is_empty() {
            return;
        }
        let kept = std::mem::take(&mut self.body);
        self.write_roaming(user, categories, touched, containers);
        for slot in own {
            self.notify(now, ready, slot, Content::RoamingSelf, true, out);
        }
        self.body = kept;
    }

    /// BENOTIFY to watchers whose container was touched. Neighbours see the
    /// same, so a document is written anew only where it is another one.
    fn tell_watchers(&mut self, now: Time, ready: Time, user: u32, touched: &Touched, out: &mut Vec<Out>) {
        let mut slot = self.users.get(user).map_or(NONE, |u| u.watchers.first());
        if slot == NONE {
            return;
        }
        let kept = std::mem::take(&mut self.body);
        let mut written: Option<(u16, Categories)> = None;
        while slot != NONE {
            let at = slot;
            slot = self.watches[at].links.next();
            let (dialog, wanted) = (self.watches[at].dialog, self.watches[at].categories());
            let container = self.container_of(user, dialog);
            let categories = touched.within(container) & wanted;
            if categories == 0 {
                continue;
            }
            let leaves = match self.knobs.telling(now, ready) {
                Telling::Never => {
                    self.stats.lost_notifies += 1;
                    continue;
                }
                Telling::HeldUntil(until) => {
                    self.hold(until, at, categories);
                    continue;
                }
                Telling::At(leaves) => leaves,
            };
            if written != Some((container, categories)) {
                self.body.clear();
                self.write_categories(user, container, categories);
                written = Some((container, categories));
            }
            self.notify(now, leaves, dialog, Content::Categories, true, out);
        }
        self.body = kept;
    }

    /// One watcher is told these categories as they are.
    pub(super) fn tell_watch(
        &mut self,
        now: Time,
        at: Time,
        watch: u32,
        categories: Categories,
        out: &mut Vec<Out>,
    ) {
        let Some(held) = self.watches.get(watch) else { return };
        let (publisher, dialog) = (held.publisher, held.dialog);
        let container = self.container_of(publisher, dialog);
        let kept = std::mem::take(&mut self.body);
        self.write_categories(publisher, container, categories);
        self.notify(now, at, dialog, Content::Categories, true, out);
        self.body = kept;
    }

    /// What is seen of a user through a container, appended to `body`.
    pub(super) fn write_categories(&mut self, publisher: u32, container: u16, wanted: Categories) {
        let mut body = std::mem::take(&mut self.body);
        body.extend_from_slice(
            b"<categories xmlns=\"http://schemas.microsoft.com/2006/09/sip/categories\" uri=\"",
        );
        self.write_aor(publisher, &mut body);
        body.extend_from_slice(b"\">");
        let held = self.users.get(publisher);
        let instances = held.map(|u| u.instances.as_slice()).unwrap_or_default();
        let aggregate = held.map(|u| u.aggregate).unwrap_or_default();
        for wanted in category::each(wanted) {
            let before = body.len();
            // The fault knob: notes are lost on their way.
            let strips = self.config.strip_note && wanted == NOTE;
            let seen = |i: &&category::Instance| i.category == wanted && i.container == container && !strips;
            if container != BLOCKED {
                instances.iter().filter(seen).for_each(|i| i.write(&mut body));
            }
            match wanted {
                STATE => {
                    let source = OUTPUTS.iter().find(|(id, _)| *id == container).map(|(_, source)| *source);
                    // A state of one's own in a container of one's own stands by itself.
                    if source.is_some() || body.len() == before {
                        aggregate.write(source, &mut body);
                    }
                }
                CONTACT_CARD if container != BLOCKED => {
                    let mut name = Vec::with_capacity(16);
                    write_user(publisher, &mut name);
                    category::write_identity(&name, self.config.domain.as_bytes(), false, &mut body);
                }
                _ => {}
            }
            if body.len() == before {
                category::write_empty(wanted, None, &mut body);
            }
        }
        body.extend_from_slice(b"</categories>");
        self.body = body;
    }

    /// What an owner is told, appended to `body`: these categories in all
    /// containers; of `touched` ones also that nothing is left; at first, and
    /// when they changed, the containers.
    pub(super) fn write_roaming(
        &mut self,
        user: u32,
        categories: Categories,
        touched: &[(Category, u16)],
        containers: bool,
    ) {
        let mut body = std::mem::take(&mut self.body);
        body.extend_from_slice(
            b"<roamingData xmlns=\"http://schemas.microsoft.com/2006/09/sip/roaming-self\" \
              xmlns:cat=\"http://schemas.microsoft.com/2006/09/sip/categories\" \
              xmlns:con=\"http://schemas.microsoft.com/2006/09/sip/containers\" \
              xmlns:sub=\"http://schemas.microsoft.com/2006/09/sip/presence-subscribers\">",
        );
        if categories != 0 {
            self.write_own_categories(user, categories, touched, &mut body);
        }
        if containers {
            self.write_containers(user, &mut body);
            body.extend_from_slice(
                b"<subscribers xmlns=\"http://schemas.microsoft.com/2006/09/sip/presence-subscribers\"/>",
            );
        }
        body.extend_from_slice(b"</roamingData>");
        self.body = body;
    }

    fn write_own_categories(
        &self,
        user: u32,
        categories: Categories,
        touched: &[(Category, u16)],
        body: &mut Vec<u8>,
    ) {
        body.extend_from_slice(
            b"<categories xmlns=\"http://schemas.microsoft.com/2006/09/sip/categories\" uri=\"",
        );
        self.write_aor(user, body);
        body.extend_from_slice(b"\">");
        let held = self.users.get(user);
        let instances = held.map(|u| u.instances.as_slice()).unwrap_or_default();
        for wanted in category::each(categories) {
            let before = body.len();
            let own = || instances.iter().filter(|i| i.category == wanted);
            own().for_each(|i| i.write_own(body));
            if wanted == STATE {
                held.map(|u| u.aggregate).unwrap_or_default().write_own(body);
            }
            if wanted == CONTACT_CARD {
                let mut name = Vec::with_capacity(16);
                write_user(user, &mut name);
                category::write_identity(&name, self.config.domain.as_bytes(), true, body);
            }
            let is_touched = touched.iter().any(|(c, _)| *c == wanted);
            if is_touched && body.len() == before {
                category::write_empty(wanted, None, body);
                continue;
            }
            for (_, container) in touched.iter().filter(|(c, _)| *c == wanted) {
                let made = wanted == STATE && OUTPUTS.iter().any(|(id, _)| id == container);
                if !made && !own().any(|i| i.container == *container) {
                    category::write_empty(wanted, Some(*container), body);
                }
            }
        }
        body.extend_from_slice(b"</categories>");
    }
}
