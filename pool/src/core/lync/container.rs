//! Containers ([MS-PRES], the schema's "Controlling access"): who sees what of
//! a user, and the SERVICE requests that say so.

use adsum_sip::Message;

use super::super::ids::write_number;
use super::doc::{self, Tree};
use super::{Lync, Out, Reply};

const MANAGEMENT: &str = "http://schemas.microsoft.com/2006/09/sip/container-management";
const SUBSCRIBERS: &str = "http://schemas.microsoft.com/2006/09/sip/presence-subscribers";
/// Whoever is in it sees nobody.
pub(super) const BLOCKED: u16 = 32_000;
/// Containers of one user, and members of one: what a schema of one's own may need.
const MAX_CONTAINERS: usize = 32;
const MAX_MEMBERS: usize = 512;
/// Bytes of a member's value.
const MAX_VALUE: usize = 256;

/// A container and who is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    id: u16,
    version: u32,
    members: Vec<Member>,
}

/// A member: its type, and the value that two of them have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    kind: Kind,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Domain,
    SameEnterprise,
    Federated,
    PublicCloud,
    Everyone,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::User, "user"),
    (Kind::Domain, "domain"),
    (Kind::SameEnterprise, "sameEnterprise"),
    (Kind::Federated, "federated"),
    (Kind::PublicCloud, "publicCloud"),
    (Kind::Everyone, "everyone"),
];

impl Member {
    fn of(kind: &str, value: &str) -> Option<Member> {
        let (kind, _) = KINDS.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(kind))?;
        let valued = matches!(kind, Kind::User | Kind::Domain);
        (valued != value.is_empty() && value.len() <= MAX_VALUE).then(|| {
            let value = value.strip_prefix("sip:").unwrap_or(value).to_ascii_lowercase();
            Member { kind, value }
        })
    }

    /// All users of this pool are of one enterprise.
    fn covers(&self, watcher: &str) -> bool {
        match self.kind {
            Kind::User => self.value == watcher,
            Kind::Domain => watcher.split_once('@').is_some_and(|(_, domain)| domain == self.value),
            Kind::SameEnterprise | Kind::Everyone => true,
            Kind::Federated | Kind::PublicCloud => false,
        }
    }
}

/// Those that everybody begins with.
fn defaults(bare: bool) -> Vec<Container> {
    let with = |id, kind: Kind| Container {
        id,
        version: u32::from(!bare),
        members: if bare { Vec::new() } else { vec![Member { kind, value: String::new() }] },
    };
    vec![with(100, Kind::Federated), with(200, Kind::SameEnterprise)]
}

/// A container's members as they are to be.
struct Change {
    id: u16,
    version: u32,
    members: Vec<(bool, Member)>,
}

impl Lync {
    /// The container through which somebody sees a user: of those that he is a
    /// member of, the one with the highest number.
    pub(super) fn effective(&self, publisher: u32, watcher: u32) -> u16 {
        let held = self.users.get(publisher).and_then(|u| u.containers.as_deref());
        match held {
            None => {
                if self.config.lync.bare_containers {
                    0
                } else {
                    200
                }
            }
            Some(held) => {
                let mut aor = Vec::with_capacity(32);
                self.write_aor(watcher, &mut aor);
                let aor = String::from_utf8_lossy(&aor).to_ascii_lowercase();
                let aor = aor.strip_prefix("sip:").unwrap_or(&aor);
                let within = |c: &&Container| c.members.iter().any(|m| m.covers(aor));
                held.iter().filter(within).map(|c| c.id).max().unwrap_or(0)
            }
        }
    }

    /// The same for whoever subscribed with a dialog.
    pub(super) fn container_of(&self, publisher: u32, dialog: u32) -> u16 {
        let watcher = self.dialogs.get(dialog).and_then(|d| self.endpoints.get(d.endpoint)).map(|e| e.user);
        watcher.map_or(0, |watcher| self.effective(publisher, watcher))
    }

    /// `<containers>…</containers>`, into `out`.
    pub(super) fn write_containers(&self, user: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<containers xmlns=\"http://schemas.microsoft.com/2006/09/sip/containers\">");
        let held = self.users.get(user).and_then(|u| u.containers.as_ref());
        let fallback;
        let held = match held {
            Some(held) => held,
            None => {
                fallback = defaults(self.config.lync.bare_containers);
                &fallback
            }
        };
        for container in held.iter().filter(|c| c.version > 0) {
            out.extend_from_slice(b"<container id=\"");
            write_number(u64::from(container.id), out);
            out.extend_from_slice(b"\" version=\"");
            write_number(u64::from(container.version), out);
            out.extend_from_slice(b"\">");
            for member in &container.members {
                let (_, name) = KINDS[member.kind as usize];
                for part in [&b"<member type=\""[..], name.as_bytes(), b"\""] {
                    out.extend_from_slice(part);
                }
                if !member.value.is_empty() {
                    out.extend_from_slice(b" value=\"");
                    doc::escape(&member.value, out);
                    out.push(b'"');
                }
                out.extend_from_slice(b"/>");
            }
            out.extend_from_slice(b"</container>");
        }
        out.extend_from_slice(b"</containers>");
    }

    /// SERVICE `setContainerMembers`: all or nothing, by versions.
    pub(super) fn set_container_members(
        &mut self,
        now: adsum_sip::Time,
        user: u32,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        let tree = match Tree::read(message.body()) {
            Ok(tree) if tree.root().is(MANAGEMENT, "setContainerMembers") => tree,
            _ => return self.not_xml(),
        };
        let mut changes = Vec::new();
        for container in tree.root().children().filter(|c| c.name() == "container") {
            let number = |name: &str| container.attribute(name).and_then(|n| n.parse::<u32>().ok());
            let id = number("id").and_then(|id| u16::try_from(id).ok()).filter(|id| *id < 32_767);
            let Some(id) = id else {
                return self.refusal(400, 4000, "container: id is a number from 0 to 32766");
            };
            let version = number("version").unwrap_or(0);
            let mut members = Vec::new();
            for member in container.children().filter(|m| m.name() == "member") {
                let text = |name: &str| member.attribute(name).unwrap_or_default();
                let adds = match text("action").as_ref() {
                    "add" | "" => true,
                    "remove" => false,
                    _ => return self.refusal(400, 4000, "member: action is add or remove"),
                };
                let Some(member) = Member::of(&text("type"), &text("value")) else {
                    return self.refusal(
                        400,
                        4000,
                        "member: type is user or domain with a value, or sameEnterprise, federated, publicCloud, everyone",
                    );
                };
                if members.len() >= MAX_MEMBERS {
                    return self.refuse(403, 4008, "too many containers or members");
                }
                members.push((adds, member));
            }
            if changes.len() >= MAX_CONTAINERS {
                return self.refuse(403, 4008, "too many containers or members");
            }
            changes.push(Change { id, version, members });
        }
        self.change_containers(now, user, &changes, out)
    }

    fn change_containers(
        &mut self,
        now: adsum_sip::Time,
        user: u32,
        changes: &[Change],
        out: &mut Vec<Out>,
    ) -> Reply {
        let bare = self.config.lync.bare_containers;
        let mut held = self.users.entry(user).containers.clone().unwrap_or_else(|| defaults(bare));
        let mut conflicts = Vec::new();
        for (at, change) in changes.iter().enumerate() {
            let known = held.iter().position(|c| c.id == change.id).unwrap_or_else(|| {
                held.push(Container { id: change.id, version: 0, members: Vec::new() });
                held.len() - 1
            });
            let container = &mut held[known];
            if container.version != change.version {
                conflicts.push((at as u32 + 1, change.version, container.version));
                continue;
            }
            container.version += 1;
            for (adds, member) in &change.members {
                container.members.retain(|m| m != member);
                if *adds {
                    container.members.push(member.clone());
                }
            }
        }
        if !conflicts.is_empty() {
            return self.conflict(&conflicts);
        }
        if held.len() > MAX_CONTAINERS || held.iter().any(|c| c.members.len() > MAX_MEMBERS) {
            return self.refuse(403, 4008, "too many containers or members");
        }
        let before = self.watch_list(user);
        let before: Vec<_> = before.into_iter().map(|(w, d)| (w, d, self.container_of(user, d))).collect();
        self.users.entry(user).containers = Some(held);
        // Whoever sees it through another container now is told all anew.
        for (watch, dialog, container) in before {
            if self.container_of(user, dialog) != container {
                let categories = self.watches[watch].categories();
                self.tell_watch(now, now, watch, categories, out);
            }
        }
        self.tell_self(now, now, user, 0, &[], true, out);
        Reply::new(200)
    }

    /// Watches of a user and their dialogs.
    fn watch_list(&self, user: u32) -> Vec<(u32, u32)> {
        let mut all = Vec::new();
        let mut slot = self.users.get(user).map_or(super::NONE, |u| u.watchers.first());
        while let Some(watch) = self.watches.get(slot) {
            all.push((slot, watch.dialog));
            slot = watch.links.next();
        }
        all
    }

    /// SERVICE `setSubscribers`: an acknowledgement that nothing waits for.
    pub(super) fn set_subscribers(&mut self, message: &Message<'_>) -> Reply {
        match Tree::read(message.body()) {
            Ok(tree) if tree.root().is(SUBSCRIBERS, "setSubscribers") => Reply::new(200),
            _ => self.not_xml(),
        }
    }
}
