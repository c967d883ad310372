//! Batch subscriptions ([MS-PRES] §2.2.2.4.1): who is watched in a dialog, and
//! the list that answers them.

use adsum_sip::ids::mix;
use adsum_sip::{HeaderId, Message};

use super::super::ids::write_user;
use super::super::list::{Linked, Links};
use super::category::{self, Categories};
use super::dialog::Package;
use super::doc::{self, Tree};
use super::notify::{BOUNDARY, Content};
use super::{Lync, Reply, is_kind};

const NAMESPACE: &str = "http://schemas.microsoft.com/2006/01/sip/batch-subscribe";
const MEDIA_TYPE: &[u8] = b"application/msrtc-adrl-categorylist+xml";
/// Publishers in one dialog: a contact list of this length is the longest that clients have.
const MAX_RESOURCES: usize = 1_000;
/// Watches of the pool: 32 bytes each.
const MAX_WATCHES: usize = 8_000_000;
/// Bytes of one URI in a list.
const MAX_URI: usize = 512;

/// One publisher in one dialog.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) dialog: u32,
    pub(super) publisher: u32,
    categories: Categories,
    /// With `hold_notify`: what has to be told.
    pub(super) held: Categories,
    /// In the list of those who watch the same user.
    pub(super) links: Links,
}

impl Linked for Watch {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Watch {
    pub(super) fn categories(&self) -> Categories {
        self.categories
    }
}

/// What is asked about one URI.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// As it was written.
    uri: String,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// One of ours, and these categories.
    Active(u32, Categories),
    /// Nobody of that name.
    NoResource,
    /// The fault knob: to be asked directly.
    Resubscribe,
    /// A bound: too many are watched already.
    Refused,
    /// Not to be watched any more.
    Leave(u32),
}

impl Lync {
    /// What a SUBSCRIBE asks about. Without a body a refresh is about all that
    /// there is already, and the packages about oneself need none.
    pub(super) fn entries(
        &mut self,
        package: Package,
        is_batch: bool,
        known: Option<u32>,
        message: &Message<'_>,
    ) -> Result<Vec<Entry>, Reply> {
        let body = message.body();
        if package != Package::Presence {
            // What it asks for, we give; but it has to be XML if it is there.
            let read = if body.is_empty() { Ok(()) } else { Tree::read(body).map(drop) };
            return read.map(|()| Vec::new()).map_err(|_| self.not_xml());
        }
        if body.is_empty() && known.is_some() {
            return Ok(Vec::new());
        }
        if !message.header(HeaderId::ContentType).is_some_and(|kind| is_kind(kind, MEDIA_TYPE)) {
            self.line(b"Accept", MEDIA_TYPE);
            return Err(self.refusal(
                415,
                4013,
                "Content-Type is not application/msrtc-adrl-categorylist+xml",
            ));
        }
        let tree = match Tree::read(body) {
            Ok(tree) if tree.root().is(NAMESPACE, "batchSub") => tree,
            _ => return Err(self.not_xml()),
        };
        let mut entries: Vec<Entry> = Vec::new();
        for action in tree.root().children().filter(|c| c.name() == "action") {
            let leaves = match action.attribute("name").as_deref() {
                Some("subscribe") => false,
                // [UNV] The documents name only `subscribe`.
                Some("unsubscribe") => true,
                _ => return Err(self.refusal(400, 4001, "an action is `subscribe` or `unsubscribe`")),
            };
            let names = action.child("categoryList").into_iter().flat_map(|list| list.children());
            let wanted = names
                .filter_map(|c| c.attribute("name").as_deref().and_then(category::category))
                .fold(0, |set, c| set | 1 << c);
            let resources = action.child("adhocList").into_iter().flat_map(|list| list.children());
            for resource in resources.filter(|r| r.name() == "resource") {
                let uri = resource.attribute("uri").unwrap_or_default().into_owned();
                if uri.len() > MAX_URI || entries.len() >= MAX_RESOURCES {
                    return Err(self.refuse(413, 4008, "input data too large"));
                }
                let verdict = match self.account(uri.as_bytes()) {
                    None if leaves => continue,
                    Some(user) if leaves => Verdict::Leave(user),
                    None => Verdict::NoResource,
                    Some(user) if is_batch && self.is_elsewhere(user) => Verdict::Resubscribe,
                    Some(user) => Verdict::Active(user, wanted),
                };
                entries.push(Entry { uri, verdict });
            }
        }
        if let ([Entry { verdict: Verdict::NoResource, .. }], true) =
            (&entries[..], self.config.lync.unknown_as_404)
        {
            return Err(self.unknown());
        }
        Ok(entries)
    }

    /// The fault knob: the same users each time, so that a client can tell.
    fn is_elsewhere(&self, user: u32) -> bool {
        let share = self.config.lync.resubscribe;
        share > 0.0
            && (mix(self.config.seed ^ mix(u64::from(user))) >> 11) as f64 / (1u64 << 53) as f64 <= share
    }

    /// Begins, changes and ends watches; who is too many is counted and told to be refused.
    pub(super) fn watch(&mut self, dialog: u32, entries: &mut [Entry]) {
        for entry in entries {
            match entry.verdict {
                Verdict::Active(publisher, categories) => match self.watched(dialog, publisher) {
                    Some(slot) => self.watches[slot].categories = categories,
                    None if self.has_room(dialog) => self.link(dialog, publisher, categories),
                    None => {
                        self.stats.refused += 1;
                        entry.verdict = Verdict::Refused;
                    }
                },
                Verdict::Leave(publisher) => {
                    if let Some(slot) = self.watched(dialog, publisher) {
                        self.dialogs[dialog].watches.retain(|other| *other != slot);
                        self.unlink(slot);
                    }
                }
                Verdict::NoResource | Verdict::Refused => {}
                Verdict::Resubscribe => self.stats.resubscribes += 1,
            }
        }
    }

    fn watched(&self, dialog: u32, publisher: u32) -> Option<u32> {
        let all = &self.dialogs[dialog].watches;
        all.iter().copied().find(|slot| self.watches[*slot].publisher == publisher)
    }

    fn has_room(&self, dialog: u32) -> bool {
        self.watches.len() < MAX_WATCHES && self.dialogs[dialog].watches.len() < MAX_RESOURCES
    }

    fn link(&mut self, dialog: u32, publisher: u32, categories: Categories) {
        let watch = Watch { dialog, publisher, categories, held: 0, links: Links::default() };
        let (slot, _) = self.watches.insert(watch);
        self.dialogs[dialog].watches.push(slot);
        self.users.entry(publisher).watchers.push(slot, &mut self.watches);
    }

    /// Takes a watch out of its publisher's list; its dialog forgets it by itself.
    pub(super) fn unlink(&mut self, slot: u32) {
        let Some(watch) = self.watches.get(slot) else { return };
        let (links, publisher) = (watch.links, watch.publisher);
        self.watches.release(slot);
        self.users.entry(publisher).watchers.remove(links, &mut self.watches);
    }

    /// All that a dialog is about.
    pub(super) fn all_entries(&self, dialog: u32) -> Vec<Entry> {
        let Some(dialog) = self.dialogs.get(dialog) else { return Vec::new() };
        let entry = |slot: &u32| {
            let watch = &self.watches[*slot];
            let mut uri = Vec::new();
            self.write_aor(watch.publisher, &mut uri);
            let verdict = Verdict::Active(watch.publisher, watch.categories);
            Entry { uri: String::from_utf8_lossy(&uri).into_owned(), verdict }
        };
        dialog.watches.iter().map(entry).collect()
    }

    /// The list of these and their documents, into `body`; one alone may be told
    /// by its document alone. Who leaves is not named.
    pub(super) fn write_batch(&mut self, watcher: u32, entries: &[Entry]) -> Content {
        let named: Vec<&Entry> = entries.iter().filter(|e| !matches!(e.verdict, Verdict::Leave(_))).collect();
        if named.is_empty() {
            return Content::Empty;
        }
        if let ([Entry { verdict: Verdict::Active(publisher, categories), .. }], false) =
            (&named[..], self.config.lync.single_as_multipart)
        {
            let container = self.effective(*publisher, watcher);
            self.write_categories(*publisher, container, *categories);
            return Content::Categories;
        }
        let mut body = std::mem::take(&mut self.body);
        part(b"resourceList", b"application/rlmi+xml", &mut body);
        body.extend_from_slice(b"<list xmlns=\"urn:ietf:params:xml:ns:rlmi\" uri=\"");
        self.write_aor(watcher, &mut body);
        body.extend_from_slice(b"\" version=\"0\" fullState=\"true\">");
        for entry in &named {
            body.extend_from_slice(b"<resource uri=\"");
            doc::escape(&entry.uri, &mut body);
            body.extend_from_slice(b"\">");
            match entry.verdict {
                Verdict::Active(publisher, _) => {
                    body.extend_from_slice(b"<instance id=\"0\" state=\"active\" cid=\"");
                    self.write_content_id(publisher, &mut body);
                    body.extend_from_slice(b"\"/>");
                }
                Verdict::Resubscribe => body.extend_from_slice(b"<instance id=\"0\" state=\"resubscribe\"/>"),
                Verdict::Refused => {
                    body.extend_from_slice(b"<instance id=\"0\" state=\"terminated\" reason=\"rejected\"/>")
                }
                Verdict::NoResource | Verdict::Leave(_) => {
                    body.extend_from_slice(
                        b"<instance id=\"0\" state=\"terminated\" reason=\"noresource\"/>",
                    );
                }
            }
            body.extend_from_slice(b"</resource>");
        }
        body.extend_from_slice(b"</list>\r\n");
        for entry in &named {
            if let Verdict::Active(publisher, categories) = entry.verdict {
                let mut id = Vec::with_capacity(32);
                self.write_content_id(publisher, &mut id);
                part(&id, b"application/msrtc-event-categories+xml", &mut body);
                self.body = body;
                let container = self.effective(publisher, watcher);
                self.write_categories(publisher, container, categories);
                body = std::mem::take(&mut self.body);
                body.extend_from_slice(b"\r\n");
            }
        }
        body.extend_from_slice(b"--");
        body.extend_from_slice(BOUNDARY);
        body.extend_from_slice(b"--\r\n");
        self.body = body;
        Content::Multipart
    }

    /// A name of our own, not the URI as it was written: that may hold line breaks.
    fn write_content_id(&self, publisher: u32, out: &mut Vec<u8>) {
        write_user(publisher, out);
        out.push(b'@');
        out.extend_from_slice(self.config.domain.as_bytes());
    }
}

fn part(id: &[u8], media_type: &[u8], out: &mut Vec<u8>) {
    for piece in [
        b"--",
        BOUNDARY,
        b"\r\nContent-Transfer-Encoding: binary\r\nContent-ID: ",
        id,
        b"\r\nContent-Type: ",
        media_type,
        b"\r\n\r\n",
    ] {
        out.extend_from_slice(piece);
    }
}
