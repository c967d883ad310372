//! SERVICE, above all `publish` ([MS-PRES] §2.2.2.8): instances by category,
//! number and container, each with a version that its publisher has to know.

use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message};

use super::category::{self, CONTACT_CARD, Categories, Category, Input, Instance, Life, STATE};
use super::doc::{Element, Tree};
use super::notify::Content;
use super::{Lync, Out, Peer, Reply, is_kind};

const NAMESPACE: &str = "http://schemas.microsoft.com/2006/09/sip/rich-presence";
/// Publications in one request.
const MAX_PUBLICATIONS: usize = 64;
/// Instances of one user.
const MAX_INSTANCES: usize = 128;
/// Bytes of one instance (2010 beyond).
const MAX_INSTANCE: usize = 32 * 1024;
/// Bytes of all instances of all users: what a machine of a few gigabytes can spare.
const MAX_DOCUMENT_BYTES: usize = 2 * 1024 * 1024 * 1024;

/// What a change touched: categories by container.
#[derive(Debug, Default)]
pub(super) struct Touched(Vec<(Category, u16)>);

impl Touched {
    pub(super) fn add(&mut self, category: Category, container: u16) {
        if !self.has(category, container) {
            self.0.push((category, container));
        }
    }

    pub(super) fn has(&self, category: Category, container: u16) -> bool {
        self.0.contains(&(category, container))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn pairs(&self) -> &[(Category, u16)] {
        &self.0
    }

    pub(super) fn categories(&self) -> Categories {
        self.0.iter().fold(0, |set, (category, _)| set | 1 << category)
    }

    pub(super) fn within(&self, container: u16) -> Categories {
        self.0.iter().filter(|(_, c)| *c == container).fold(0, |set, (category, _)| set | 1 << category)
    }
}

/// One `publication` of a request.
struct Wish {
    category: Category,
    number: u32,
    container: u16,
    version: u32,
    life: Life,
    /// `expires`; 0 deletes.
    expires: Option<u32>,
    input: Input,
    text: Vec<u8>,
}

impl Instance {
    fn is_for(&self, wish: &Wish) -> bool {
        (self.category, self.number, self.container) == (wish.category, wish.number, wish.container)
    }

    /// True if it ends with this endpoint.
    pub(super) fn dies_with(&self, endpoint: u32, is_last: bool) -> bool {
        match self.life {
            Life::Endpoint(of) => of == endpoint,
            Life::User => is_last,
            Life::Static | Life::Time => false,
        }
    }
}

impl Lync {
    /// All that a SERVICE may ask, by the type of its body.
    pub(super) fn service(
        &mut self,
        now: Time,
        user: u32,
        to: &[u8],
        peer: Peer,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        match self.account(to) {
            Some(resource) if resource == user => {}
            Some(_) => return self.refusal(403, 4004, "presence of others is not to be published"),
            None => return self.unknown(),
        }
        let kind = message.header(HeaderId::ContentType).unwrap_or(b"");
        if is_kind(kind, b"application/msrtc-category-publish+xml") {
            self.publish(now, user, peer, message, out)
        } else if is_kind(kind, b"application/msrtc-setcontainermembers+xml") {
            self.set_container_members(now, user, message, out)
        } else if is_kind(kind, b"application/msrtc-presence-setsubscriber+xml") {
            self.set_subscribers(message)
        } else if is_kind(kind, b"application/SOAP+xml") {
            self.soap(now, user, message, out)
        } else {
            self.line(
                b"Accept",
                b"application/msrtc-category-publish+xml, application/msrtc-setcontainermembers+xml, \
                  application/msrtc-presence-setsubscriber+xml, application/SOAP+xml",
            );
            self.refusal(415, 4013, "Content-Type does not match")
        }
    }

    fn publish(
        &mut self,
        now: Time,
        user: u32,
        peer: Peer,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        let Some(endpoint) = self.sender(user, peer, message) else {
            return self.refusal(403, 4000, "this endpoint is not registered: REGISTER it first");
        };
        let tree = match Tree::read(message.body()) {
            Ok(tree) if tree.root().is(NAMESPACE, "publish") => tree,
            _ => return self.not_xml(),
        };
        let mut wishes = Vec::new();
        for publications in tree.root().children().filter(|c| c.name() == "publications") {
            let uri = publications.attribute("uri").unwrap_or_default();
            if self.account(uri.as_bytes()) != Some(user) {
                return self.refusal(403, 4004, "presence of others is not to be published");
            }
            for publication in publications.children().filter(|c| c.name() == "publication") {
                if wishes.len() >= MAX_PUBLICATIONS {
                    return self.refuse(413, 4008, "input data too large");
                }
                match read(publication, endpoint) {
                    Ok(wish) => wishes.push(wish),
                    Err((code, id, reason)) => return self.refusal(code, id, reason),
                }
            }
        }
        let conflicts = self.conflicts(user, &wishes);
        if !conflicts.is_empty() {
            return self.conflict(&conflicts);
        }
        if let Some(reply) = self.lacks_room(user, &wishes) {
            return reply;
        }
        let mut touched = Touched::default();
        for wish in wishes {
            touched.add(wish.category, wish.container);
            self.store(now, user, wish);
        }
        self.rearm(user);
        let ready = self.knobs.worked_off(now);
        self.body.clear();
        if touched.is_empty() {
            return Reply::new(200);
        }
        self.commit(now, ready, user, &mut touched, out);
        // The answer holds what a notification would: versions above all.
        self.write_roaming(user, touched.categories(), touched.pairs(), false);
        self.line(b"Content-Type", Content::RoamingSelf.media_type());
        Reply { at: ready, ..Reply::new(200) }
    }

    /// Index from 1, version given, version held.
    fn conflicts(&mut self, user: u32, wishes: &[Wish]) -> Vec<(u32, u32, u32)> {
        let every = u64::from(self.config.lync.conflict_every);
        let held = &mut self.users.entry(user).instances;
        let mut conflicts: Vec<(u32, u32, u32)> = Vec::new();
        let mut existing = None;
        for (index, wish) in wishes.iter().enumerate() {
            let known = held.iter().position(|i| i.is_for(wish));
            existing = existing.or(known.map(|at| (index, at)));
            let current = known.map_or(0, |at| held[at].version);
            if current != wish.version {
                conflicts.push((index as u32 + 1, wish.version, current));
            }
        }
        // The fault knob: as if another endpoint had published just before.
        if let (true, Some((index, at)), true) = (conflicts.is_empty(), existing, every > 0) {
            self.publications += 1;
            if self.publications.is_multiple_of(every) {
                let instance = &mut self.users[user].instances[at];
                instance.version += 1;
                conflicts.push((index as u32 + 1, wishes[index].version, instance.version));
                self.stats.conflicts_on_purpose += 1;
            }
        }
        conflicts
    }

    /// 409 with the versions that are held. That all publications of a request
    /// fail together, and the number in ms-diagnostics, are inferred.
    pub(super) fn conflict(&mut self, conflicts: &[(u32, u32, u32)]) -> Reply {
        self.stats.conflicts += 1;
        self.body.clear();
        let fault = b"<Fault xmlns=\"http://schemas.microsoft.com/2006/09/sip/fault\">\
            <Faultcode>Client.BadCall.WrongDelta</Faultcode><details>";
        self.body.extend_from_slice(fault);
        for (index, version, current) in conflicts {
            let operation =
                format!("<operation index=\"{index}\" version=\"{version}\" curVersion=\"{current}\"/>");
            self.body.extend_from_slice(operation.as_bytes());
        }
        self.body.extend_from_slice(b"</details></Fault>");
        self.line(b"Content-Type", b"application/msrtc-fault+xml");
        self.refusal(409, 2044, "version is out of date")
    }

    fn lacks_room(&mut self, user: u32, wishes: &[Wish]) -> Option<Reply> {
        let held = &self.users.entry(user).instances;
        let fresh = wishes.iter().filter(|w| w.expires != Some(0) && !held.iter().any(|i| i.is_for(w)));
        let (count, bytes) = (held.len() + fresh.count(), wishes.iter().map(|w| w.text.len()).sum::<usize>());
        if count > MAX_INSTANCES {
            return Some(self.refuse(403, 2010, "too many category instances"));
        }
        if self.document_bytes + bytes > MAX_DOCUMENT_BYTES {
            return Some(self.refuse(503, 4000, "no room for more category instances"));
        }
        None
    }

    fn store(&mut self, now: Time, user: u32, wish: Wish) {
        let published = self.clock.unix_ms(now);
        let held = &mut self.users[user].instances;
        let known = held.iter().position(|i| i.is_for(&wish));
        let freed = known.map_or(0, |at| held[at].text.len());
        if wish.expires == Some(0) {
            if let Some(at) = known {
                held.remove(at);
                self.stats.publications -= 1;
            }
            self.document_bytes -= freed;
            return;
        }
        let ends = match (wish.life, wish.expires) {
            (Life::Time, Some(seconds)) => now + u64::from(seconds) * SECOND,
            _ => Time::NEVER,
        };
        self.document_bytes = self.document_bytes + wish.text.len() - freed;
        let instance = Instance {
            category: wish.category,
            container: wish.container,
            number: wish.number,
            version: known.map_or(0, |at| held[at].version) + 1,
            life: wish.life,
            input: wish.input,
            published,
            ends,
            text: wish.text.into(),
        };
        match known {
            Some(at) => held[at] = instance,
            None => {
                held.push(instance);
                self.stats.publications += 1;
            }
        }
    }

    fn rearm(&mut self, user: u32) {
        let held = self.users.get(user).map(|u| u.instances.as_slice()).unwrap_or_default();
        let first = held.iter().map(|i| i.ends).min().unwrap_or(Time::NEVER);
        self.arm_user(user, first);
    }

    /// Ends what is over; a timer may fire early, as what it was set for was published anew.
    pub(super) fn instances_expired(&mut self, now: Time, user: u32, out: &mut Vec<Out>) {
        let Some(held) = self.users.get_mut(user) else { return };
        held.alarm.fired();
        let mut touched = Touched::default();
        let (document_bytes, publications) = (&mut self.document_bytes, &mut self.stats.publications);
        held.instances.retain(|i| {
            let lives = i.ends > now;
            if !lives {
                touched.add(i.category, i.container);
                *document_bytes -= i.text.len();
                *publications -= 1;
            }
            lives
        });
        self.rearm(user);
        if !touched.is_empty() {
            self.commit(now, now, user, &mut touched, out);
        }
    }
}

type Refusal = (u16, u32, &'static str);

fn read(publication: Element<'_>, endpoint: u32) -> Result<Wish, Refusal> {
    let text = |name: &str| publication.attribute(name).unwrap_or_default();
    // Numbers may be written as signed ones: they are bits to the server.
    let number = |name: &str| {
        let text = text(name);
        text.parse::<u32>().ok().or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned))
    };
    let category = category::category(&text("categoryName")).ok_or((
        400,
        4000,
        "categoryName: a category that is not registered with this pool",
    ))?;
    let instance = number("instance").ok_or((400, 4000, "publication: instance is a number of 32 bits"))?;
    let container = text("container").parse::<u16>().ok().filter(|c| *c < 32_767).ok_or((
        400,
        4000,
        "publication: container is a number from 0 to 32766",
    ))?;
    let version = if text("version").is_empty() { Some(0) } else { number("version") };
    let version = version.ok_or((400, 4000, "publication: version is a number"))?;
    let expires = if text("expires").is_empty() { None } else { number("expires") };
    let life = match text("expireType").as_ref() {
        "static" => Life::Static,
        "user" => Life::User,
        "endpoint" | "" => Life::Endpoint(endpoint),
        "time" if expires.is_some() => Life::Time,
        _ => {
            return Err((400, 4000, "expireType: static, user, endpoint, or time with expires"));
        }
    };
    if (category, instance, container) == (CONTACT_CARD, 0, 0) {
        return Err((403, 2003, "Cannot overwrite read-only publication"));
    }
    let mut content = Vec::new();
    publication.children().take(1).for_each(|child| child.write(&mut content));
    if content.len() > MAX_INSTANCE {
        return Err((400, 2010, "Category size limit exceeded"));
    }
    let input = if category == STATE { input(publication) } else { Input::None };
    Ok(Wish { category, number: instance, container, version, life, expires, input, text: content })
}

/// What a `state` says: its kind from `xsi:type`, with or without a prefix.
fn input(publication: Element<'_>) -> Input {
    let Some(state) = publication.child("state") else { return Input::None };
    let kind = state.attribute("type").unwrap_or_default();
    let availability = state.child("availability").and_then(|a| a.text().parse::<u16>().ok());
    let Some(availability) = availability else { return Input::None };
    match kind.rsplit(':').next().unwrap_or("") {
        "machineState" => Input::Machine(availability),
        "userState" => Input::User(availability),
        "calendarState" | "phoneState" => Input::Other(availability),
        _ => Input::None,
    }
}
